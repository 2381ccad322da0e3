"""Print what a silent program is doing, and for how long it has been doing it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from swarmctl.terminal.sentences import duration


def interval(stream: TextIO) -> float:
    """Return the seconds of silence before a line is written to ``stream``: more for a file than for a terminal."""
    return 5.0 if stream.isatty() else 30.0


def still(what: str, seconds: float) -> str:
    """Return the line to write, such as ``Still checking the device, after 30 s.``"""
    return f"Still {what}, after {duration(round(seconds))}."


@contextmanager
def waiting(write: Callable[[str], None], what: str, every: float) -> Iterator[None]:
    """Write a line every ``every`` seconds during the block, from another thread."""
    done, began = threading.Event(), time.monotonic()

    def tell() -> None:
        while not done.wait(every):
            write(still(what, time.monotonic() - began))

    thread = threading.Thread(target=tell, name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
