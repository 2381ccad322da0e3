"""The picture in the README: drawn from a run's events, complete, and drawn by the current live view."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

from tools import live_view_svg
from tools.live_view_svg import END_S, SHOWN_S, Run, animated, frames

START = {"event": "start", "node": "demo", "model": "tiny", "tasks": ["spell_backward"], "device": "cpu"}


def run() -> Run:
    """Return a run of ten rounds."""
    events: list[dict[str, Any]] = [{"event": "phase", "name": "loading tiny", "done": None, "total": None}, START]
    for number in range(10):
        events.append({"event": "round", "round": number, "seconds": {"generate": 1.0, "train": 1.0}})
    return Run([{"t": float(second), **event} for second, event in enumerate(events)], ["Done after 10 rounds."])


def test_pictures_follow_the_run() -> None:
    pictures = list(frames(run()))
    # The command; loading; rounds 0 and 5; the summary.
    assert [len(picture) for picture in pictures] == [1, 2, 3, 3, 3]
    assert str(pictures[-1][-1]) == "Done after 10 rounds."


def test_each_picture_is_hidden_when_the_next_is_shown() -> None:
    drawn = animated(list(frames(run())))
    times = re.findall(r"@keyframes k(\d+)\{0%\{opacity:0\}([\d.]+)%\{opacity:1\}([\d.]+)%", drawn)
    assert [int(number) for number, _, _ in times] == list(range(5))
    assert [shown for _, shown, _ in times[1:]] == [hidden for _, _, hidden in times[:-1]]
    assert times[-1][2] == "100.00"
    assert f"{3 * SHOWN_S + 2 * END_S:.1f}s" in drawn


def test_the_picture_in_the_repository_is_of_a_run_that_learned() -> None:
    text = live_view_svg.DOCUMENT.read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    shown = text.replace("&#160;", " ")
    before, after = map(int, re.findall(r"Accuracy (\d+) % \(\S+\) → (\d+) %", shown)[-1])
    assert after - before >= 40
    assert "http" not in re.sub(r'xmlns="[^"]*"', "", text)
