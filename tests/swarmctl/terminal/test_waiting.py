"""Lines that a silent program prints."""

from __future__ import annotations

import io
import itertools
import sys
import threading
import time
from typing import Any

import pytest

from swarmctl.terminal import views
from swarmctl.terminal.progress import RunView
from swarmctl.terminal.views import PlainView
from swarmctl.terminal.waiting import bar, interval, progress_line, waiting
from tests.support.waiting import until


def test_a_line_is_written_repeatedly_until_the_work_ends() -> None:
    lines: list[str] = []
    with waiting(lines.append, "checking the device", 0.01):
        until(lambda: len(lines) >= 3)
    assert set(lines) == {"Still checking the device, after 0 s."}
    assert "waiting" not in [thread.name for thread in threading.enumerate()]


def test_a_bar_shows_how_much_is_done() -> None:
    lines: list[str] = []
    shares = itertools.chain([0.259], itertools.repeat(0.1))
    with waiting(lines.append, "downloading", 0.01, share=lambda: next(shares)):
        until(lambda: len(lines) > 1)
    assert set(lines) == {"Still downloading [#####...............] 25 %, after 0 s."}, "it never goes back"
    assert bar(0) == "[....................] 0 %"
    assert bar(0.999) == "[###################.] 99 %"
    assert bar(1) == bar(2.5) == "[####################] 100 %"


def test_nothing_is_written_about_short_work() -> None:
    lines: list[str] = []
    with waiting(lines.append, "checking the device"):
        pass
    assert lines == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.slow
def test_a_terminal_shows_one_line_that_changes_and_disappears(monkeypatch: pytest.MonkeyPatch) -> None:
    class Drawn(Terminal):
        encoding = "utf-8"

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("CI", raising=False)
    stream, lines = Drawn(), []
    monkeypatch.setattr(sys, "stderr", stream)
    with waiting(lines.append, "checking the device"):
        until(lambda: stream.getvalue() != "")
    assert lines == []
    assert stream.getvalue().startswith("\r\x1b[KChecking the device: 1 s")
    assert stream.getvalue().endswith("\r\x1b[K")
    assert "\n" not in stream.getvalue()


def test_a_file_gets_fewer_lines_than_a_terminal() -> None:
    assert interval(Terminal()) < interval(io.StringIO()) == 30


STARTED = {"event": "start", "node": "x", "resumed_round": 3}
LOADING = {"event": "phase", "name": "loading tiny"}
PROBING = {"event": "phase", "name": "waiting for the provider's first answer"}
PROBED = {"event": "spend", "round": -1, "provider": "box", "model": "m", "requests": 1, "usd": 0.0}
WAITING = {"event": "phase", "name": "waiting for box:m, completions", "done": 1, "total": 4}
DOWN = {"event": "warning", "code": "provider_down", "provider": "box", "fallback": None}


@pytest.mark.parametrize(
    ("events", "told"),
    [
        ([], "Still starting, after 40 s."),
        ([LOADING], "Still loading tiny, after 40 s."),
        ([STARTED], "Still in round 4, after 40 s."),
        ([STARTED, PROBING], "Still waiting for the provider's first answer, after 40 s."),
        ([STARTED, PROBING, PROBED], "Still in round 4, after 40 s."),
        ([STARTED, WAITING], "Still waiting for box:m, completions: 1 of 4, after 40 s."),
        ([STARTED, WAITING, PROBED | {"round": 3}], "Still in round 4, after 40 s."),
        ([STARTED, WAITING, DOWN | {"fallback": "local"}], "Still in round 4, after 40 s."),
        ([STARTED, DOWN], "Still waiting for box, after 40 s."),
        ([STARTED, DOWN | {"fallback": "local"}], "Still in round 4, after 40 s."),
    ],
)
@pytest.mark.parametrize("quiet", [False, True])
def test_a_silent_run_prints_what_it_is_doing(
    events: list[dict[str, Any]], told: str, quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(views.time, "monotonic", lambda: now[0])
    stream, progress = io.StringIO(), RunView()
    view = PlainView(stream, quiet=quiet)

    def wait_until(moment: float) -> None:
        now[0] = moment
        view.tick(progress)

    for event in events:
        progress.apply(event)
    for moment in (110.0, 129.0, 140.0, 141.0, 169.0):
        wait_until(moment)
    assert stream.getvalue().splitlines() == ([] if quiet else [told])
    view.event({"event": "warning", "code": "x", "message": "y"}, progress)
    wait_until(198.0)
    assert stream.getvalue().splitlines()[-1] == "warning: y."


def test_the_time_counts_from_the_beginning_of_a_phase_not_from_its_latest_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(views.time, "monotonic", lambda: now[0])
    stream, progress = io.StringIO(), RunView()
    view = PlainView(stream)

    def emit(moment: float, name: str, done: int) -> None:
        now[0] = moment
        event = {"event": "phase", "name": name, "done": done, "total": 450, "t": moment}
        progress.apply(event)
        view.event(event, progress)

    view.tick(progress)
    emit(110, "warming up", 0)
    for moment, done in ((111, 25), (120, 50), (129, 75)):
        emit(moment, "warming up", done)
    now[0] = 160.0
    view.tick(progress)
    emit(161, "evaluating", 0)
    now[0] = 191.0
    view.tick(progress)
    assert stream.getvalue().splitlines() == [
        "Warming up: 0 of 450.",
        "Warming up: 50 of 450.",
        "Still warming up: 75 of 450, after 50 s.",
        "Evaluating: 0 of 450.",
        "Still evaluating: 0 of 450, after 30 s.",
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_one_line_on_a_terminal_that_disappears(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    class Drawn(Terminal):
        encoding = "utf-8"

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("CI", raising=False)
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    stream, lines = Drawn() if terminal else io.StringIO(), []
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_line(lines.append) as show:
        show(lambda: pytest.fail("nothing has taken long yet"))
        for number in (1, 2):
            clock[0] += interval(stream)
            show(lambda number=number: f"{number} of 2 questions.")  # type: ignore[misc]
    if terminal:
        assert lines == []
        assert stream.getvalue() == "\r\x1b[K1 of 2 questions.\r\x1b[K2 of 2 questions.\r\x1b[K"
    else:
        assert lines == ["1 of 2 questions.", "2 of 2 questions."]
