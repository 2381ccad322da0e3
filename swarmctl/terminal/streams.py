"""Standard streams: whether they can be drawn on, written to, or are closed."""

import os
import sys
from collections.abc import Mapping
from typing import TextIO

_USUAL = 80
"""Columns of a terminal that does not know its width."""


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


def width_of(stream: TextIO) -> int | None:
    """Return the width of the terminal that ``stream`` writes to; None if it writes to no terminal.

    ``$COLUMNS`` overrides the terminal's own width. Another stream's terminal does not count: text in a file is not
    wrapped, and a wide file beside a narrow terminal does not make the terminal wider.
    """
    if not stream.isatty():
        return None
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(stream.fileno()).columns or _USUAL
    except (OSError, ValueError):  # not a file
        return _USUAL


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


def can_draw(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether a live view works: on a terminal that can move its cursor and show more than ASCII."""
    encoding = (stream.encoding or "ascii").lower().replace("-", "")
    return (
        stream.isatty()
        and environment.get("TERM", "dumb") not in ("dumb", "")
        and not environment.get("CI")
        and encoding in ("utf8", "utf16", "utf32")
    )
