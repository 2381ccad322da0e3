"""The live view: a few lines at the bottom of the terminal, redrawn in place (rich)."""

import time
from collections.abc import Sequence
from itertools import pairwise, zip_longest
from typing import Any, Self, TextIO

from rich.console import Group
from rich.text import Text

from swarmctl.terminal import sentences
from swarmctl.terminal.devices import devices
from swarmctl.terminal.progress import RunView
from swarmctl.terminal.redrawn import Redrawn
from swarmctl.terminal.safe_text import folded, one_line
from swarmctl.terminal.sentences import percent

REDRAW_S = 0.25
_LABEL = 9
"""Columns of a line's label."""
_TICKS = "▁▂▃▄▅▆▇█"
_PARTS = {
    "generate": ("█", "cyan"),
    "verify": ("▓", "yellow"),
    "train": ("▒", "magenta"),
    "share": ("░", "blue"),
    "other": ("·", "default"),
}
"""Glyph and color of each part of the time. The glyphs keep the bar readable without colors."""


def sparkline(values: Sequence[float], width: int) -> str:
    """Return values of 0 to 1 as at most ``width`` bars. A longer series is averaged in equal segments."""
    if len(values) > width:
        edges = [round(i * len(values) / width) for i in range(width + 1)]
        values = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    return "".join(_TICKS[min(7, max(0, int(value * 8)))] for value in values)


def draw(progress: RunView, width: int, running_s: float) -> Group:
    """Return the view, with no line wider than ``width``."""
    lines = [Text(_head(progress.start), style="bold")] if progress.start else []
    wide = max(4, width - 30)

    def row(label: str, text: str | Text) -> None:
        lines.append(Text.assemble((f"{label:<{_LABEL}}", "dim"), text))

    def rows(label: str, parts: Sequence[Text]) -> None:
        """Add parts, separated by commas, on as many lines as they need."""
        line = Text()
        for part in parts:
            if line and _LABEL + len(line) + 2 + len(part) > width:
                row(label, line.append(","))
                label, line = "", Text()
            line.append(", " if line else "").append(part)
        row(label, line)

    before, after = progress.accuracy_before, progress.accuracy_after
    if before is not None:
        gain = sentences.gain(before, after, progress.questions)
        room = max(4, width - _LABEL - len(gain) - 2)
        bars = sparkline([progress.accuracy[r] for r in sorted(progress.accuracy)], min(room, 24))
        row("accuracy", f"{gain}  {bars}")
    if progress.rewards:
        rewards = [progress.rewards[r] for r in sorted(progress.rewards)]
        row("reward", f"{rewards[-1]:.2f}  {sparkline(rewards, min(wide, 40))}")
    if progress.curriculum:
        rows("tasks", [Text(one_line(part)) for part in sentences.asked(progress.curriculum)])
    if progress.round_seconds is not None:
        rate, seconds = progress.tokens_per_second, sentences.seconds_left(progress)
        pace = [] if rate is None else [f"{rate:,.0f} tokens/s"]
        pace.append(f"{sentences.duration(progress.round_seconds)} per round")
        pace += [f"{sentences.duration(seconds)} left"] if seconds else []
        rows("speed", list(map(Text, pace)))
    spent, outages = sentences.spending(progress), sentences.outages(progress)
    if spent or outages or progress.requests:
        requests = f"{sentences.several(progress.requests, 'request')} in this run"
        hints = [sentences.hints(progress)] if progress.hints else []
        used = [spent or "no charge", requests, *hints, *progress.providers, *outages]
        rows("offload", [Text(one_line(part)) for part in used])
    if progress.peers is not None:
        shared = sentences.exchanged(progress)
        rows("swarm", list(map(Text, [sentences.in_touch(progress.peers), *(shared.split(", ") if shared else ())])))
    if (learning := sentences.learning(progress)) is not None:
        rows("learning", list(map(Text, learning.replace("; ", ", ").split(", "))))
    if progress.seconds and sum(progress.seconds.values()):
        # The parts of the time, the largest first, in words and as a bar.
        words, bar = [], Text()
        for part, share in sorted(sentences.time_shares(progress.seconds), key=lambda item: -item[1]):
            glyph, colour = _PARTS[part]
            words.append(Text(f"{part} {percent(share)}", style=colour))
            bar.append(glyph * round(share * min(60, width - 10)), style=colour)
        rows("time", words)
        row("", bar)
    for label, line in zip_longest(("now",), folded(_now(progress, running_s), max(20, width - _LABEL)), fillvalue=""):
        row(label, line)
    for drawn in lines:
        drawn.no_wrap, drawn.overflow = True, "ellipsis"
    return Group(*lines)


def _head(start: dict[str, Any]) -> str:
    tasks = ", ".join(map(str, start.get("tasks") or []))
    parts = [start.get("node"), start.get("model") or "relay", tasks, devices(start)]
    return one_line(" · ".join(str(part) for part in parts if part))


def _now(progress: RunView, running_s: float) -> str:
    if progress.stopping:
        doing = "Stopping"
    elif progress.phase is not None:
        doing = sentences.phase(progress.phase).removesuffix(".")
    elif progress.start is None:
        doing = "Starting"
    else:
        doing = f"Round {sentences.of_rounds(progress)} done" if progress.round else "First round"
    # Before the first round, the time would be read as that of the phase.
    total = "" if progress.round else " in total"
    return f"{one_line(doing)} · {sentences.duration(round(running_s))}{total}"


class LiveView:
    """Redraws at most four times per second. Sentences and warnings scroll above it."""

    def __init__(self, stream: TextIO, running_s: float = 0.0, *, when_suspended: str = "") -> None:
        """``running_s``: seconds for which the run has been running; ``when_suspended``: what to print at Ctrl-Z."""
        self._lines = Redrawn(stream, erased=True, when_suspended=when_suspended)
        self._began = time.monotonic() - running_s
        self._drawn = 0.0

    def __enter__(self) -> Self:
        self._lines.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._lines.__exit__(*error)

    def note(self, text: str) -> None:
        self._lines.note(text)

    def event(self, event: dict[str, Any], progress: RunView, /) -> None:
        if (text := sentences.notable(event)) is not None:
            self.note(text)
        elif event["event"] == "eval" and sentences.dropped(progress):
            self.note(sentences.evaluation(event, progress))

    def tick(self, progress: RunView, /) -> None:
        moment = time.monotonic()
        if not self._lines.was_interrupted() and moment - self._drawn < REDRAW_S:
            return
        self._drawn = moment
        self._lines.draw(draw(progress, self._lines.width, moment - self._began))
