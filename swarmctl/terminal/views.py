"""How a run is shown on stderr: chooses the live view, or the plain view with one sentence per event."""

import os
import sys
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, TextIO, TypeAlias

from swarmctl.terminal import sentences
from swarmctl.terminal.event_sentences import EventSentences
from swarmctl.terminal.options import Level
from swarmctl.terminal.progress import RunView
from swarmctl.terminal.safe_text import encodable, folded, one_line
from swarmctl.terminal.streams import can_draw, width_of
from swarmctl.terminal.waiting import interval, still

if TYPE_CHECKING:
    from swarmctl.terminal.live_view import LiveView

Display: TypeAlias = "PlainView | LiveView"


class Writer:
    """Writes lines for people. A closed stderr does not end the run.

    On a terminal, sentences are wrapped between words, but never between a number and its unit. An indented line is a
    command to paste and is not wrapped.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __call__(self, text: str, indent: str | None = None) -> None:
        """Write a line. With ``indent``, an indented line is wrapped, too, and ``indent`` starts its other lines."""
        text = one_line(text) if text.startswith(" ") and indent is None else self.folded(text, indent or "")
        # Text on stderr may be lost (closed pipe, terminal or file object). Data on stdout must not be lost.
        with nullcontext() if self.stream is sys.stdout else suppress(OSError, ValueError):
            self.stream.write(encodable(text, self.stream.encoding) + "\n")
            self.stream.flush()

    def folded(self, text: str, indent: str = "", *, paths: bool = False) -> str:
        """Return ``text`` on one line, or wrapped between words if the stream is a terminal.

        ``indent`` starts every line but the first. ``paths``: long paths are wrapped behind slashes.
        """
        width = width_of(self.stream)
        if width is None:
            return one_line(text)
        return "\n".join(folded(text, max(20, width - 1), indent=indent, paths=paths))


class PlainView(AbstractContextManager["PlainView"]):
    """Prints one sentence per round, evaluation, phase and warning. After a silence, prints what the run is doing."""

    def __init__(self, stream: TextIO, *, quiet: bool = False, verbose: bool = False) -> None:
        self._write = Writer(stream)
        self._quiet = quiet
        self._sentences = EventSentences(verbose=verbose)
        self._every = interval(stream)
        self._told = time.monotonic()
        self._doing: tuple[object, ...] | None = None
        self._since = self._told

    def __exit__(self, *_: object) -> None:
        return None

    def tick(self, progress: RunView, /) -> None:
        """Print what the run is doing, and for how long it has been doing it, if nothing was printed for a while."""
        now = time.monotonic()
        self._note_beginning(progress)
        if not self._quiet and now - self._told >= self._every:
            self._write(still(sentences.doing(progress), now - self._since))
            self._told = now

    def _note_beginning(self, progress: RunView) -> None:
        """Remember when the run began to do what it is doing. Steps of one phase belong together."""
        event = progress.phase or {}
        phase = event.get("name") if event.get("round") is None else None
        doing = (phase, progress.start is None, progress.round, None in progress.down.values())
        if self._doing not in (None, doing):
            self._since = time.monotonic()
        self._doing = doing

    def note(self, text: str) -> None:
        self._write(text)

    def event(self, event: dict[str, Any], progress: RunView, /) -> None:
        self._note_beginning(progress)
        text = self._sentences.sentence(event, progress)
        if text is not None and (not self._quiet or sentences.level(event) is not Level.INFO):
            self._write(text)
            self._told = time.monotonic()


def view(
    stream: TextIO, *, plain: bool, quiet: bool, verbose: bool, running_s: float = 0.0, when_suspended: str = ""
) -> Display:
    """Return the view for ``stream``.

    ``running_s``: seconds for which the run has been running already; ``when_suspended``: what the live view prints
    when Ctrl-Z suspends this program.
    """
    if plain or quiet or not can_draw(stream, os.environ):
        return PlainView(stream, quiet=quiet, verbose=verbose)
    from swarmctl.terminal.live_view import LiveView

    return LiveView(stream, running_s, when_suspended=when_suspended)
