"""Which view the operator gets, and the plain one: a sentence for each thing that happens, on stderr."""

from __future__ import annotations

import os
import re
import shutil
import textwrap
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, TextIO

from swarmctl.terminal import sentences
from swarmctl.terminal.progress import PASSING, RunView
from swarmctl.terminal.safe_text import clean, encodable

if TYPE_CHECKING:  # commands that only write lines need no trainer's configuration
    from swarmctl.terminal.display import Display

PEERS_EVERY_S = 60
"""How many peers there are is told again after this time, or at once where it becomes none or some."""
PHASE_EVERY_S = 10
"""A phase that goes on is told again after this time."""

_NO_BREAK = "\u00a0"
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:%|s|min|h|M|B|[MG]iB)(?:\W|$))")


class Writer:
    """Writes lines for people. A reader who went away does not end the run.

    On a terminal, sentences are broken between words, never between a number and its unit; an indented line is a
    command to paste and stays whole.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __call__(self, text: str) -> None:
        if not text.startswith(" "):
            text = self.folded(text)
        with suppress(OSError, ValueError):  # a closed pipe or terminal, a closed file object
            self.stream.write(encodable(clean(text), self.stream.encoding) + "\n")
            self.stream.flush()

    def folded(self, text: str) -> str:
        """Return ``text`` broken between words where the stream is a terminal, no number parted from its unit."""
        if not self.stream.isatty():
            return text
        width = shutil.get_terminal_size().columns
        together = _BEFORE_UNIT.sub(_NO_BREAK, text)
        filled = textwrap.fill(together, max(20, width - 1), break_long_words=False, break_on_hyphens=False)
        return filled.replace(_NO_BREAK, " ")


class PlainView:
    """One sentence for each round, evaluation, phase and warning."""

    def __init__(self, stream: TextIO, *, quiet: bool = False, verbose: bool = False) -> None:
        self._write = Writer(stream)
        self._quiet = quiet
        self._verbose = verbose
        self._rollouts: list[dict[str, Any]] = []
        self._phase: tuple[object, float] = (None, 0.0)
        self._peers: tuple[int | None, float] = (None, 0.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def tick(self, _progress: RunView, /) -> None:
        """Nothing moves here."""

    def note(self, text: str) -> None:
        self._write(text)

    def event(self, event: dict[str, Any], progress: RunView, /) -> None:
        text = self._sentence(event, progress)
        if text is not None and (not self._quiet or event["event"] in ("warning", "error")):
            self._write(text)

    def _sentence(self, event: dict[str, Any], progress: RunView) -> str | None:
        text = None
        match event["event"]:
            case "start":
                text = sentences.start(event)
            case "phase":
                text = self._phase_sentence(event)
            case "rollouts":
                self._rollouts.append(event)
            case "round":
                text = sentences.round_done(self._rollouts, progress)
                self._rollouts = []
            case "eval" if event.get("accuracy") is not None:
                text = sentences.evaluation(event, progress)
            case "peers":
                text = self._peers_sentence(event.get("peers") or 0)
            case "checkpoint" if self._verbose:
                text = f"Saved {event.get('path')}."
            case "push":
                text = sentences.push(event)
            case "warning":
                text = f"warning: {event.get('message')}"
            case "error" if event.get("code") in PASSING:
                text = f"error: {event.get('message')}"
        return text

    def _phase_sentence(self, event: dict[str, Any]) -> str | None:
        name, told = self._phase
        if name == event.get("name") and time.monotonic() - told < PHASE_EVERY_S:
            return None
        self._phase = (event.get("name"), time.monotonic())
        return sentences.phase(event)

    def _peers_sentence(self, peers: int) -> str | None:
        before, told = self._peers
        if before is not None and (peers > 0) == (before > 0) and time.monotonic() - told < PEERS_EVERY_S:
            return None
        self._peers = (peers, time.monotonic())
        text = sentences.in_touch(peers)
        return f"{text[:1].upper()}{text[1:]}."


def can_draw(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether a live view makes sense: a real terminal that can move its cursor and show more than ASCII."""
    encoding = (stream.encoding or "ascii").lower().replace("-", "")
    return (
        stream.isatty()
        and environment.get("TERM", "dumb") not in ("dumb", "")
        and not environment.get("CI")
        and encoding in ("utf8", "utf16", "utf32")
    )


def view(stream: TextIO, *, plain: bool, quiet: bool, verbose: bool) -> Display:
    """Return the view for ``stream``."""
    if plain or quiet or not can_draw(stream, os.environ):
        return PlainView(stream, quiet=quiet, verbose=verbose)
    from swarmctl.terminal.live_view import LiveView

    return LiveView(stream)
