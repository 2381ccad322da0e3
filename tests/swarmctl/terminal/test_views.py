"""The views of a run: on wide and narrow terminals, without a terminal, without colors or Unicode."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import Any

import pexpect
import psutil
import pytest
from rich.console import Console

from swarmctl.run.summary import lesson
from swarmctl.terminal import sentences
from swarmctl.terminal.live_view import LiveView, draw, sparkline
from swarmctl.terminal.progress import RunView, result
from swarmctl.terminal.safe_text import folded
from swarmctl.terminal.streams import can_draw
from swarmctl.terminal.views import PlainView, Writer
from tests.support.command_line import STAND_IN, run_process
from tests.support.terminals import rest_of, spawn

pytestmark = pytest.mark.slow

LIVE = {"TERM": "xterm-256color", "LANG": "C.UTF-8", "PYTHONUTF8": "1"}


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding

    def isatty(self) -> bool:
        return True


def run_demo(*options: str, width: int = 80, act: str = "run", **environment: str) -> pexpect.spawn[str]:
    clean = {key: value for key, value in os.environ.items() if key not in ("CI", "NO_COLOR", "TERM")}
    command = [*STAND_IN, "run", "-p", "demo", *options]
    return spawn(command, environment=clean | LIVE | {"STAND_IN": act} | environment, columns=width)


def test_live_view_shows_progress() -> None:
    terminal = run_demo("--rounds", "20")
    screen = rest_of(terminal)
    assert terminal.exitstatus == 0
    assert re.search(r"accuracy.*38 % \(\d+–\d+\)  ▄", screen)
    assert re.search(r"reward.*0\.\d\d  ▃", screen)
    assert "5,210 tokens/s" in screen
    assert re.search(r"generate 6\d %", screen)
    assert re.search(r"Round \d+ of 20 done", screen)
    assert "\x1b[?25l" in screen
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l"), "the cursor is shown again"
    assert "warning: this is slow" in screen
    assert "[31m" not in screen.split("warning: this is ")[1][:8]


def test_nothing_is_wider_than_a_narrow_terminal() -> None:
    progress = RunView()
    for event in EVENTS:
        progress.apply(event)
    for width in (40, 60, 120):
        console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
        with console.capture() as captured:
            console.print(draw(progress, width, 100))
        lines = captured.get().splitlines()
        assert len(lines) == (8 if width == 40 else 7)  # the speed takes two lines
        assert all(len(line) <= width for line in lines)
    screen = rest_of(run_demo("--rounds", "10", width=40))
    assert re.search(r"speed.*5,210 tokens/s", screen)


def test_the_newest_accuracy_is_shown_on_a_narrow_terminal() -> None:
    progress = RunView()
    progress.accuracy = dict.fromkeys(range(50), 0.0) | dict.fromkeys(range(50, 100), 1.0)
    progress.questions = 200
    for width in (50, 60, 100):
        (line,) = (str(each) for each in draw(progress, width, 1.0).renderables if str(each).startswith("accuracy"))
        assert len(line) <= width
        assert line.startswith("accuracy 0 % (0–2) → 100 % (98–100)  ▁▁")
        assert line.endswith("██")


def test_on_a_narrow_terminal_the_time_since_the_start_is_shown() -> None:
    progress = RunView()
    phase = {"name": "waiting for localhost-8123:smollm2, completions", "done": 0, "total": 16}
    progress.apply({"event": "phase", **phase})
    assert [str(line) for line in draw(progress, 100, 62.0).renderables] == [
        "now      Waiting for localhost-8123:smollm2, completions: 0 of 16 · 1 min 2 s in total",
    ]
    assert [str(line) for line in draw(progress, 60, 62.0).renderables] == [
        "now      Waiting for localhost-8123:smollm2, completions: 0",
        "         of 16 · 1 min 2 s in total",
    ]


def test_on_a_narrow_terminal_the_swarm_and_the_time_take_two_lines() -> None:
    progress = RunView()
    progress.peers, progress.shared, progress.shared_bytes = 12, 1_234, 1_200_000
    progress.rollouts = {"peer": 9_600}
    progress.start = {"node": "maths", "group_size": 8}
    progress.seconds = dict.fromkeys(("generate", "verify", "train", "share", "other"), 1.0)
    for width in (60, 200):
        text = "\n".join(str(line) for line in draw(progress, width, 1.0).renderables)
        assert max(map(len, text.splitlines())) <= width
        assert "shared 1,234 groups" in text
        assert "learned from 1,200 peer groups" in text
        assert all(f"{part} 20 %" in text for part in progress.seconds)


def test_on_a_narrow_terminal_every_gradient_norm_is_shown() -> None:
    progress = RunView()
    progress.nll, progress.gradients = {"teacher": 0.2}, {"policy": 0.31, "teacher": 0.32}
    shown = "\n".join(str(line) for line in draw(progress, 60, 1.0).renderables)
    assert max(map(len, shown.splitlines())) <= 60
    for part in ("teacher's text 0.20 nats per token", "gradient norm: own 0.31", "teacher 0.32"):
        assert part in shown


def test_an_interrupt_restores_the_terminal_and_exits_130() -> None:
    terminal = run_demo("--rounds", "0")
    terminal.expect("Round")
    terminal.sendintr()
    screen = rest_of(terminal)
    assert terminal.exitstatus == 130
    assert "Stopping within 5 s" in screen
    assert "Saved: checkpoints/" in screen
    assert screen.rindex("\x1b[?25h") > screen.rfind("\x1b[?25l")


def test_without_a_live_view_what_follows_ctrl_c_has_a_line_of_its_own() -> None:
    terminal = run_demo("--rounds", "0", "--plain")
    terminal.expect("Round")
    terminal.sendintr()
    terminal.expect_exact("^C")
    assert "\r\nStopping within" in rest_of(terminal)


def test_a_trainer_that_chooses_a_prompt_style_is_killed_as_soon_as_promised() -> None:
    """Its first pass over many prompts reacts to no signal, and nothing is lost."""
    terminal = run_demo("--rounds", "0", act="calibrate", STAND_IN_GRACE="3600")  # for nodes with something to save
    terminal.expect("Trying prompt styles")
    terminal.sendintr()
    terminal.expect("Stopping within 5 s")
    terminal.expect_exact("Stopping · ")
    rest_of(terminal)
    assert terminal.exitstatus == 130


def test_a_second_interrupt_on_a_terminal() -> None:
    terminal = run_demo("--rounds", "0", act="hang")
    terminal.expect("Round")
    terminal.sendintr()
    terminal.expect("Stopping within 5 s")
    terminal.sendintr()
    screen = rest_of(terminal)
    assert terminal.exitstatus == 130
    assert "\x1b[?25h" in screen


@pytest.mark.usefixtures("no_leftovers")
def test_closing_the_terminal_stops_the_run(home: Path) -> None:
    terminal = run_demo("--rounds", "0")
    terminal.expect("Round")
    terminal.ptyproc.fileobj.close()  # its own number, which a later close by number would take from another file
    assert psutil.Process(terminal.pid).wait() == 0
    assert (home / "nodes/demo/events.jsonl").read_text().splitlines()[-1].count('"reason": "signal"') == 1


@pytest.mark.parametrize("setting", [{"TERM": "dumb"}, {"CI": "true"}, {"PYTHONIOENCODING": "ascii"}])
def test_sentences_are_printed_where_the_live_view_cannot_be_drawn(setting: dict[str, str]) -> None:
    terminal = run_demo("--rounds", "3", **setting)
    screen = rest_of(terminal)
    assert terminal.exitstatus == 0
    assert "Round 3 of 3: " in screen
    assert "\x1b" not in screen
    if "PYTHONIOENCODING" in setting:
        assert "Accuracy 38 % (32-45) -> 90 % (85-93)" in screen


def test_no_color_leaves_only_words_and_glyphs() -> None:
    screen = rest_of(run_demo("--rounds", "10", NO_COLOR="1"))
    assert "generate" in screen
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", screen)


def test_ascii_streams_get_ascii() -> None:
    ascii_ = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = run_process([*STAND_IN, "run", "-p", "demo", "--rounds", "2"], env=os.environ | ascii_)
    assert done.returncode == 0
    assert "Accuracy 38 % (32-45) -> 90 % (85-93)" in done.stderr


def test_live_view_needs_a_capable_terminal() -> None:
    assert can_draw(Terminal("utf-8"), {"TERM": "xterm"})
    assert not can_draw(Terminal("utf-8"), {})
    assert not can_draw(Terminal("utf-8"), {"TERM": "xterm", "CI": "1"})
    assert not can_draw(Terminal("ascii"), {"TERM": "xterm"})
    assert not can_draw(io.StringIO(), {"TERM": "xterm"})


def test_only_a_path_that_is_longer_than_a_line_is_wrapped_behind_slashes() -> None:
    long = f"/home/{'x' * 12}/{'y' * 12}/{'z' * 30}/w"
    lines = folded(f"node {long}: see a/b/c", 30, indent="  ", paths=True)
    assert lines == [f"node /home/{'x' * 12}/", f"  {'y' * 12}/", f"  {'z' * 30}/", "  w: see a/b/c"]
    assert folded(f"node {long}: see a/b/c", 30, indent="  ")[1] == f"  {long}:"


def test_a_number_and_its_unit_stay_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal("ascii")
    Writer(stream)("Time in rounds: generate 40 %, verify 4 %, train 49 %, other 7 %.")
    assert stream.getvalue() == "Time in rounds: generate 40 %, verify\n4 %, train 49 %, other 7 %.\n"


def test_the_live_views_sentences_keep_numbers_and_units_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = io.StringIO()
    LiveView(stream).note("Groups of 8 that would teach: sums 50 %.")
    assert stream.getvalue().splitlines() == ["Groups of 8 that would teach: sums", "50 %."]


def test_a_sparkline_keeps_its_shape() -> None:
    assert sparkline([0, 0.5, 1], 10) == "▁▅█"
    assert len(sparkline([i / 100 for i in range(100)], 24)) == 24
    assert sparkline([i / 100 for i in range(100)], 8) == "▁▂▃▄▅▆▇█"


def test_numbers_are_easy_to_read() -> None:
    assert [sentences.duration(s) for s in (0.44, 48.2, 200.0, 7500.0)] == ["0.4 s", "48 s", "3 min 20 s", "2 h 5 min"]
    assert [sentences.count(n) for n in (1234, 266_000, 494e6, 7.6e9)] == ["1,234", "0.266 M", "494 M", "7.6 B"]


def test_long_phase_is_printed_only_now_and_then() -> None:
    stream = io.StringIO()
    view = PlainView(stream)
    for done in range(100):
        view.event({"event": "phase", "t": 1.0, "name": "warming up", "done": done, "total": 100}, RunView())
    assert stream.getvalue() == "Warming up: 0 of 100.\n"


def test_a_long_round_is_followed_in_the_views_own_line_and_prints_no_other() -> None:
    stream, progress = io.StringIO(), RunView()
    view = PlainView(stream)
    progress.apply({"event": "start", "node": "n", "resumed_round": 3})
    for name in ("generating completions", "training on completions"):
        for done in (64, 128):
            event = {"event": "phase", "t": 60.0 + done, "name": name, "done": done, "total": 256, "round": 3}
            progress.apply(event)
            view.event(event, progress)
    assert stream.getvalue() == ""
    assert sentences.doing(progress) == "in round 4, training on completions: 128 of 256"
    assert str(draw(progress, 100, 62.0).renderables[-1]) == (
        "now      In round 4, training on completions: 128 of 256 · 1 min 2 s"
    )
    view._every = 0.0
    view.tick(progress)
    assert stream.getvalue() == "Still in round 4, training on completions: 128 of 256, after 0 s.\n"


EVENTS: list[dict[str, Any]] = [
    {"event": "start", "node": "n", "model": "m" * 60, "tasks": ["t"] * 9, "device": "cpu", "rounds": 80},
    {"event": "eval", "round": 0, "accuracy": 0.25, "questions": 200, "split": "heldout"},
    {"event": "eval", "round": 0, "accuracy": 0.5, "questions": 200, "split": "train"},
    *(
        event
        for n in range(60)
        for event in (
            {"event": "rollouts", "round": n, "source": "policy", "count": 8, "correct": 4, "reward": (n + 1) / 60},
            {"event": "step", "round": n, "step": n},
            {"event": "round", "round": n, "seconds": {"generate": 2.0, "train": 1.0}, "tokens_per_second": 99.0},
        )
    ),
    {"event": "eval", "round": 60, "accuracy": 0.75, "questions": 200, "split": "heldout"},
    {"event": "phase", "name": "evaluating", "done": 3, "total": None},
    {"event": "of the future"},
]


def test_progress_accumulates_events() -> None:
    progress = RunView()
    for event in EVENTS:
        progress.apply(event)
    told = result(progress, "n")
    assert (told["rounds"], told["steps"]) == (60, 60)
    assert (told["accuracy_before"], told["accuracy_after"]) == (0.25, 0.75)
    assert told["rollouts"] == {"policy": 480}
    assert told["seconds"] == {"generate": 120.0, "verify": 0.0, "train": 60.0, "share": 0.0, "other": 0.0}


def test_the_share_and_the_level_of_each_task_are_shown() -> None:
    tasks = {
        "chain_sum": {"share": 0.625, "differing": 0.5, "groups": 16, "level": 1, "levels": 6},
        "spell_backward": {"share": 0.375, "differing": None, "groups": 0, "level": None, "levels": None},
    }
    event = {"event": "curriculum", "round": 11, "tasks": tasks}
    progress = RunView()
    progress.apply(event)
    console = Console(file=io.StringIO(), width=80)
    console.print(draw(progress, 80, 1.0))
    assert "tasks    chain_sum 62 % (level 2 of 6), spell_backward 38 %" in console.file.getvalue()  # type: ignore[attr-defined]
    assert sentences.notable(event) == (
        "From round 12 on, the questions are chain_sum 62 % (level 2 of 6), spell_backward 38 %."
    )
    assert sentences.notable({**event, "tasks": {"chain_sum": tasks["chain_sum"]}}) is None


def test_unknown_values_are_null() -> None:
    told = result(RunView(), "n")
    assert told["rounds"] is told["steps"] is told["accuracy_before"] is told["accuracy_after"] is None
    assert set(told["seconds"].values()) == {None}


@pytest.mark.parametrize(
    ("after", "told"), [(0.95, "taught no new skill"), (0.3, "not much yet"), (0.1, "not much yet")]
)
def test_demo_claims_only_what_it_showed(after: float, told: str) -> None:
    progress = RunView(accuracy={0: 0.25, 80: after}, start={"parameters": 232_000})
    assert told in lesson(progress)
    assert "0.232 M" in lesson(progress)


DOWN = {"event": "warning", "code": "provider_down", "provider": "mybox", "message": "…", "fallback": "local"}
BACK = {"event": "warning", "code": "provider_back", "provider": "mybox", "message": "…"}
OFFLOAD = {"event": "offload", "usd_total": 0.0, "usd_cap": None}
SPEND = {"event": "spend", "round": 0, "provider": "mybox", "model": "m", "requests": 3, "usd": 0.0, "usd_total": 0.0}


def offload_line(*events: dict[str, Any]) -> str | None:
    """Return the live view's ``offload`` line after these events."""
    progress = RunView()
    for event in events:
        progress.apply(event)
    lines = [str(line) for line in draw(progress, 160, 1.0).renderables]
    return next((line.removeprefix("offload").strip() for line in lines if line.startswith("offload")), None)


def test_live_view_shows_an_outage_until_the_provider_is_back() -> None:
    waiting = DOWN | {"fallback": None}
    used = "no charge, 3 requests in this run, mybox:m"
    assert offload_line(OFFLOAD, SPEND, DOWN) == f"{used}, mybox unavailable, falling back"
    assert offload_line(OFFLOAD, SPEND, waiting) == f"{used}, mybox unavailable, waiting"
    assert offload_line(OFFLOAD, DOWN, {"event": "start"}) == (
        # The test request has failed before the rounds.
        "no charge, 0 requests in this run, mybox unavailable, falling back"
    )
    assert offload_line(OFFLOAD, SPEND, DOWN, DOWN | {"provider": "spare"}, BACK) == (
        f"{used}, spare unavailable, falling back"
    )


def test_an_unavailable_judge_is_told_apart_from_the_generator_even_if_one_provider_is_both() -> None:
    judge = DOWN | {"judge": True, "fallback": None}
    used = "no charge, 3 requests in this run, mybox:m"
    assert offload_line(OFFLOAD, SPEND, judge) == f"{used}, the judge mybox unavailable, waiting"
    both = f"{used}, mybox unavailable, falling back, the judge mybox unavailable, waiting"
    for order in ((DOWN, judge), (judge, DOWN)):
        assert offload_line(OFFLOAD, SPEND, *order) == both
    assert offload_line(OFFLOAD, SPEND, DOWN, judge, BACK) == f"{used}, the judge mybox unavailable, waiting"
    assert (
        offload_line(OFFLOAD, SPEND, DOWN, judge, BACK | {"judge": True}) == f"{used}, mybox unavailable, falling back"
    )
    progress = RunView()
    for event in (OFFLOAD, judge, DOWN):
        progress.apply(event)
    assert sentences.doing(progress) == "waiting for the judge mybox"


def test_live_view_shows_why_a_provider_is_not_asked_any_more() -> None:
    aside = DOWN | {"set_aside": "none of its last 24 hints taught this node anything"}
    shown = "mybox no longer asked: none of its last 24 hints taught this node anything"
    used = "no charge, 3 requests in this run, mybox:m"
    assert offload_line(OFFLOAD, SPEND, aside | {"set_aside": "why"}) == f"{used}, mybox no longer asked: why"
    progress = RunView()
    for event in (OFFLOAD, SPEND, aside, DOWN | {"provider": "spare"}):
        progress.apply(event)
    assert sentences.outages(progress) == [shown, "spare unavailable, falling back"]
    assert offload_line(OFFLOAD, SPEND, aside, OFFLOAD, DOWN) == f"{used}, mybox unavailable, falling back"


def test_live_view_shows_only_the_end_of_a_models_path() -> None:
    line = offload_line(OFFLOAD, SPEND | {"model": "/data/models/qwen"})
    assert line == "no charge, 3 requests in this run, mybox:qwen"


@pytest.mark.parametrize(
    "end", [BACK, OFFLOAD, {"event": "start"}, {"event": "warning", "code": "engine_restarted", "message": "…"}]
)
def test_outage_ends_with_the_provider_the_run_or_the_process(end: dict[str, Any]) -> None:
    begun = {"event": "start"}
    assert offload_line(OFFLOAD, begun, SPEND, DOWN, end) == "no charge, 3 requests in this run, mybox:m"


def test_repeated_steps_are_counted_once() -> None:
    progress = RunView()
    for replayed in (True, False):
        progress.apply({"event": "rollouts", "round": 1, "source": "policy", "count": 8, "replayed": replayed})
        progress.apply({"event": "round", "round": 1, "seconds": {"train": 1.0}, "replayed": replayed})
    assert progress.rollouts == {"policy": 8}
    assert progress.seconds is not None
    assert progress.seconds["train"] == 1.0
