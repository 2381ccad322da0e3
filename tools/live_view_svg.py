"""Draw the live view of a real run as an animated SVG, from the run's events, with the code that draws the terminal.

python -m tools.live_view_svg                   run the demo and draw it
python -m tools.live_view_svg --events FILE --command "swarmctl run …"      draw a recorded run
"""

from __future__ import annotations

import argparse
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

from swarmctl.run.summary import reached
from swarmctl.terminal import sentences
from swarmctl.terminal.live_view import draw
from swarmctl.terminal.progress import RunView

DOCUMENT = Path(__file__).parents[1] / "docs" / "images" / "live-view.svg"
COMMAND = "swarmctl run --profile demo"
COLUMNS = 84
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
    command: str = COMMAND


def run_demo(home: Path) -> Run:
    """Run the demo with its files below ``home``."""
    environment = {**os.environ, "SWARMCTL_HOME": str(home)}
    command = [sys.executable, "-m", *COMMAND.split(), "--plain"]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    events = read(home / "nodes" / "demo" / "events.jsonl")
    lines = (printed.stderr + printed.stdout).splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("Done after"))
    last = next(number for number, line in enumerate(lines) if line.startswith("Saved:"))
    return Run(events, lines[first:last])


def recorded(log: Path, command: str) -> Run:
    """Return a run that was recorded on another machine, with the first line that it printed at its end."""
    events, progress = read(log), RunView()
    for event in events:
        progress.apply(event)
    elapsed = sentences.duration(events[-1]["t"] - events[0]["t"])
    return Run(events, [reached(progress, f", {elapsed} in this run")], command)


def read(log: Path) -> list[dict[str, Any]]:
    """Return a node's events."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def frames(run: Run) -> Iterator[list[Any]]:
    """Yield the pictures, each as lines: the sentences printed so far, with the live view below them."""
    view, above = RunView(), [Text(f"$ {run.command}", style="bold green")]
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


def _draw(lines: Sequence[Any], name: str) -> tuple[str, int]:
    """Return the SVG elements of one picture, and its number of lines. Classes begin with ``name``."""
    output = StringIO()
    console = Console(width=COLUMNS, record=True, file=output, color_system="truecolor", force_terminal=True)
    for line in lines:
        console.print(line, highlight=False)
    drawn = console.export_svg(theme=MONOKAI, code_format=_FRAME, unique_id=name)
    # Remove what has no effect: clip paths, as no picture is clipped, and the elements that rich writes for line ends.
    plain = re.sub(r' clip-path="[^"]*"', "", re.sub(r"<text[^>]*>\n</text>\n?", "", drawn))
    return plain, output.getvalue().count("\n")


def animated(pictures: Sequence[Sequence[Any]]) -> str:
    """Return one SVG that shows the pictures one after the other, in an endless loop."""
    lengths = [SHOWN_S] * (len(pictures) - 2) + [END_S, END_S]
    total = sum(lengths)
    drawn = [_draw(picture, f"f{number}") for number, picture in enumerate(pictures)]
    rows = max(lines for _, lines in drawn)
    width, height = COLUMNS * _CELL + 2 * _PADDING, rows * _LINE_HEIGHT + _TITLE + _PADDING
    rules, groups = [], []
    for number, (elements, _) in enumerate(drawn):
        shown = 100 * sum(lengths[:number]) / total
        hidden = 100 * sum(lengths[: number + 1]) / total
        rules.append(f"@keyframes k{number}{{0%{{opacity:0}}{shown:.2f}%{{opacity:1}}{hidden:.2f}%{{opacity:0}}}}")
        rules.append(f".k{number}{{opacity:0;animation:k{number} {total:.1f}s step-end infinite}}")
        groups.append(f'<g class="k{number}" transform="translate({_PADDING},{_TITLE})">{elements}</g>')
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
        f"<title>The live view of a run</title><style>{style}</style>"
        f'<rect width="100%" height="100%" rx="8" fill="#1d1f21"/>{buttons}{"".join(groups)}</svg>\n'
    )


def main() -> int:
    """Write the picture; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=Path, help="the events.jsonl of a finished run (default: run the demo)")
    parser.add_argument("--command", default=COMMAND, help="the command to show above a recorded run")
    options = parser.parse_args()
    if options.events is not None:
        run = recorded(options.events, options.command)
    else:
        with tempfile.TemporaryDirectory() as home:
            run = run_demo(Path(home))
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(animated(list(frames(run))), encoding="utf-8")
    print(f"wrote {DOCUMENT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
