"""Handle standard streams that are closed or cannot be written to."""

import os
import sys
from typing import TextIO


def open_closed() -> None:
    """Open the standard streams that were closed when Python started, so that no other file gets their descriptors.

    Nothing can be read from stdin, writing to stdout fails, and what is written to stderr is lost.
    """
    for descriptor, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # gets the lowest free descriptor
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def is_broken(stream: TextIO) -> bool:
    """Whether a stream's buffered text cannot be written."""
    try:
        stream.flush()
    except OSError:
        return True
    return False


def discard(stream: TextIO) -> None:
    """Drop a stream's buffered text, which would fail again when Python exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    stream.flush()
