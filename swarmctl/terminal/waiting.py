"""Print what a silent program is doing, and for how long it has been doing it."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from swarmctl.terminal.hidden_input import HiddenInput
from swarmctl.terminal.sentences import duration
from swarmctl.terminal.streams import can_draw, width_of

_BAR = 20
"""Columns of a bar, without its brackets."""


def interval(stream: TextIO) -> float:
    """Return the seconds of silence before a line is written to ``stream``: more for a file than for a terminal."""
    return 5.0 if stream.isatty() else 30.0


def still(what: str, seconds: float) -> str:
    """Return the line to write, such as ``Still checking the device, after 30 s.``"""
    return f"Still {what}, after {duration(round(seconds))}."


def bar(share: float) -> str:
    """Return a share, from 0 to 1, as ``[#####...............] 25 %``. More than 1 counts as 1."""
    share = min(1.0, share)
    filled = int(_BAR * share)
    return f"[{'#' * filled}{'.' * (_BAR - filled)}] {int(100 * share)} %"


@contextmanager
def waiting(
    write: Callable[[str], None], what: str, every: float | None = None, share: Callable[[], float] | None = None
) -> Iterator[None]:
    """Show what the program is doing during the block, from another thread.

    If stderr is a terminal, this is one line, which changes every second and disappears at the end. Otherwise, a line
    is written every ``every`` seconds (default: ``interval``). ``share``: returns how much is done, from 0 to 1, for a
    bar, which never goes back.
    """
    stream = sys.stderr
    done, began, draws = threading.Event(), time.monotonic(), can_draw(stream, os.environ)

    def tell(hidden: HiddenInput) -> None:
        drawn, most = False, 0.0
        while not done.wait(1.0 if draws else interval(stream) if every is None else every):
            seconds = time.monotonic() - began
            most = most if share is None else max(most, share())
            shown = "" if share is None else f" {bar(most)}"
            if not draws:
                write(still(f"{what}{shown}", seconds))
            elif not hidden.in_background:
                hidden.hide()
                took = duration(round(seconds))
                text = f"{what[:1].upper()}{what[1:]}{shown or ':'}{', ' if shown else ' '}{took}"
                _draw(stream, text[: (width_of(stream) or len(text)) - 1])
                drawn = True
        if drawn and not hidden.in_background:
            _draw(stream, "")

    with HiddenInput(stream, erase=lambda: _erase(stream)) as hidden:
        thread = threading.Thread(target=tell, args=[hidden], name="waiting", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


@contextmanager
def progress_line(write: Callable[[str], None]) -> Iterator[Callable[[Callable[[], str]], None]]:
    """Yield a function that shows how far the block is, unless it has done so within the last seconds.

    It is given a function that returns the sentence. If stderr is a terminal, each sentence replaces the one before,
    and the last one disappears at the end of the block. Otherwise, it is written with ``write``.
    """
    stream = sys.stderr
    draws = can_draw(stream, os.environ)
    every, told = 1.0 if draws else interval(stream), time.monotonic()

    def show(sentence: Callable[[], str]) -> None:
        nonlocal told
        if time.monotonic() - told < every:
            return
        told = time.monotonic()
        if draws:
            text = sentence()
            _draw(stream, text[: (width_of(stream) or len(text)) - 1])
        else:
            write(sentence())

    try:
        yield show
    finally:
        if draws:
            _draw(stream, "")


def _draw(stream: TextIO, text: str) -> None:
    """Replace the terminal's current line."""
    with suppress(OSError, ValueError):
        stream.write(f"\r\x1b[K{text}")
        stream.flush()


def _erase(stream: TextIO) -> None:
    """Clear the terminal's current line. Unlike the stream, this can be called while the stream is being written to."""
    with suppress(OSError, ValueError):
        os.write(stream.fileno(), b"\r\x1b[K")
