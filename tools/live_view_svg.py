"""Run the demo and draw its live view as an animated SVG: ``python -m tools.live_view_svg``.

The pictures are drawn by the code that draws the terminal, from the events of a real run.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from swarmctl.terminal import sentences
from swarmctl.terminal.live_view import draw
from swarmctl.terminal.progress import RunView

DOCUMENT = Path(__file__).parents[1] / "docs" / "images" / "live-view.svg"
COMMAND = "swarmctl run --profile demo"
COLUMNS, ROWS = 84, 10
SHOWN_S = 0.7
"""Seconds per picture. The last two, the end of training and the summary, are shown for ``END_S`` each."""
END_S = 5.0
ROUNDS_PER_FRAME = 5

_FRAME = "<style>{styles}</style><g>{backgrounds}</g><g class='{unique_id}-matrix'>{matrix}</g>"
_LINE_HEIGHT, _CELL = 24.4, 12.2  # what rich's SVG export uses, in pixels
_PADDING, _TITLE = 18, 42


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: its events, and the lines that it printed at its end."""

    events: list[dict[str, Any]]
    conclusion: list[str]


def run_demo(home: Path) -> Run:
    """Run the demo with its files below ``home``."""
    environment = {**os.environ, "SWARMCTL_HOME": str(home)}
    command = [sys.executable, "-m", *COMMAND.split(), "--plain"]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    written = (home / "nodes" / "demo" / "events.jsonl").read_text(encoding="utf-8")
    events = [json.loads(line) for line in written.splitlines()]
    lines = (printed.stderr + printed.stdout).splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("Done after"))
    last = next(number for number, line in enumerate(lines) if line.startswith("Saved:"))
    return Run(events, lines[first:last])


def frames(run: Run) -> Iterator[list[Any]]:
    """Yield the pictures, each as lines: the sentences printed so far, with the live view below them."""
    view, above = RunView(), [Text(f"$ {COMMAND}", style="bold green")]
    began = run.events[0]["t"]
    yield list(above)
    for event in run.events:
        view.apply(event)
        if (sentence := sentences.notable(event)) is not None:
            above.append(Text(sentence))
        if _is_shown(event):
            yield [*above, draw(view, COLUMNS, event["t"] - began)]
    yield [*above, *map(Text, run.conclusion)]


def _is_shown(event: dict[str, Any]) -> bool:
    """Whether to draw a picture after an event. One per event would be hundreds."""
    match event:
        case {"event": "phase", "done": int(done)}:
            return done % 150 == 0
        case {"event": "phase"}:
            return True
        case {"event": "round", "round": int(number)}:
            return number % ROUNDS_PER_FRAME == 0
    return False


def _draw(lines: Sequence[Any], name: str) -> str:
    """Return the SVG elements of one picture. Their classes begin with ``name``."""
    console = Console(width=COLUMNS, record=True, file=StringIO(), color_system="truecolor", force_terminal=True)
    for line in lines:
        console.print(line, highlight=False)
    drawn = console.export_svg(theme=MONOKAI, code_format=_FRAME, unique_id=name)
    # Remove what has no effect: clip paths, as no picture is clipped, and the elements that rich writes for line ends.
    return re.sub(r' clip-path="[^"]*"', "", re.sub(r"<text[^>]*>\n</text>\n?", "", drawn))


def animated(pictures: Sequence[Sequence[Any]]) -> str:
    """Return one SVG that shows the pictures one after the other, in an endless loop."""
    lengths = [SHOWN_S] * (len(pictures) - 2) + [END_S, END_S]
    total = sum(lengths)
    width, height = COLUMNS * _CELL + 2 * _PADDING, ROWS * _LINE_HEIGHT + _TITLE + _PADDING
    rules, groups = [], []
    for number, picture in enumerate(pictures):
        shown = 100 * sum(lengths[:number]) / total
        hidden = 100 * sum(lengths[: number + 1]) / total
        rules.append(f"@keyframes k{number}{{0%{{opacity:0}}{shown:.2f}%{{opacity:1}}{hidden:.2f}%{{opacity:0}}}}")
        rules.append(f".k{number}{{opacity:0;animation:k{number} {total:.1f}s step-end infinite}}")
        drawn = _draw(picture, f"f{number}")
        groups.append(f'<g class="k{number}" transform="translate({_PADDING},{_TITLE})">{drawn}</g>')
    # Readers who asked for less motion see the end of training.
    still = f".k{len(pictures) - 2}{{opacity:1}}"
    rules.append(f"@media (prefers-reduced-motion:reduce){{g[class^=k]{{animation:none}}{still}}}")
    style = "text{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:20px}" + "".join(rules)
    buttons = "".join(
        f'<circle cx="{22 + 22 * place}" cy="21" r="7" fill="{color}"/>'
        for place, color in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img">'
        f"<title>The live view of a run of the demo</title><style>{style}</style>"
        f'<rect width="100%" height="100%" rx="8" fill="#1d1f21"/>{buttons}{"".join(groups)}</svg>\n'
    )


def main() -> int:
    """Run the demo and write the picture; return the exit code."""
    with tempfile.TemporaryDirectory() as home:
        run = run_demo(Path(home))
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(animated(list(frames(run))), encoding="utf-8")
    print(f"wrote {DOCUMENT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
