"""``status``: the state of nodes, from their files only."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from contextlib import closing

import pytest

from hivemind_exp.config import Config
from hivemind_exp.event_log import EventLog
from hivemind_exp.events import (
    CurriculumEvent,
    ErrorEvent,
    PhaseEvent,
    RoundEvent,
    SpendEvent,
    StartEvent,
    StopEvent,
    WarningEvent,
    WorkersEvent,
    discard,
)
from hivemind_exp.journal.audit import StepOutcome
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Evaluation, Manifest
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.run_recorder import RunRecorder
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.nodes.directory import opened
from swarmctl.nodes.history import rounds_finished
from swarmctl.terminal.command_line import typed
from tests.support.command_line import ROOT, STAND_IN
from tests.support.journals import bare_node
from tests.support.patience import wait_for_end
from tests.support.terminals import printed, rest_of, spawn


def test_a_step_that_was_not_taken_is_no_finished_round() -> None:
    files = bare_node("old")
    journal = Journal(files.journal, "")
    for round_ in range(3):
        journal.commit(Manifest(round_, round_, 0, 1, ()))
    assert rounds_finished(files) == 3  # by a version that recorded no results
    journal.write_result(0, StepOutcome(0.1, 1.0, "{}"))
    journal.write_result(1, StepOutcome(0.1, 1.0, "{}"))
    assert rounds_finished(files) == 2
    journal.close()


def test_a_running_node(node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["status"]) == Exit.DONE
    heading, line = capsys.readouterr().out.splitlines()
    assert heading.split() == ["node", "state", "round", "accuracy", "per", "round", "left", "up"]
    assert re.fullmatch(r"maths +training +2 +25 % → 50 % \(43–57\) +1.0 s +3.0 s +\d.*", line)
    assert cli.run(["status", "maths", "--json"]) == Exit.DONE
    (row,) = json.loads(capsys.readouterr().out)["nodes"]
    assert (row["state"], row["round"], row["accuracy_before"], row["accuracy_after"]) == ("training", 2, 0.25, 0.5)
    assert row["accuracy_interval"] == [0.43136, 0.56864]
    assert row["accuracy_before_interval"] == [0.195081, 0.314342]
    assert row["updated"].endswith("Z")
    assert row["model"] is None
    assert (row["phase"], row["seconds_left"], row["usd_total"]) == (None, 3.0, None)
    emit = EventLog(node.events)
    emit(PhaseEvent(name="evaluating", done=0, total=2))
    assert cli.run(["status", "maths"]) == Exit.DONE
    assert re.search(r"maths +evaluating +2 ", capsys.readouterr().out)
    emit(PhaseEvent(name="waiting for box:m, completions", done=1, total=2))
    emit.close()
    assert cli.run(["status", "maths"]) == Exit.DONE
    assert re.search(r"maths +waiting +2 ", capsys.readouterr().out)


def test_the_curriculum_is_shown_while_it_is_on(node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    tasks: dict[str, dict[str, int | float | None]] = {
        "spell_backward": {"share": 0.375, "differing": None, "groups": 0, "level": None, "levels": None},
        "chain_sum": {"share": 0.625, "differing": 0.5, "groups": 16, "level": 1, "levels": 6},
    }
    with closing(EventLog(node.events)) as emit:
        emit(CurriculumEvent(round=0, tasks={}))
        emit(CurriculumEvent(round=1, tasks=tasks))
    said = "maths: the questions are chain_sum 62 % (level 2 of 6), spell_backward 38 %"
    for on, shown in ((True, tasks), (False, None)):
        node.config.write_text(json.dumps({"schema": 1, "config": {"game": {"curriculum": on}}}))
        assert cli.run(["status"]) == Exit.DONE
        assert (said in capsys.readouterr().out) is on
        assert cli.run(["status", "--json"]) == Exit.DONE
        assert json.loads(capsys.readouterr().out)["nodes"][0]["curriculum"] == shown


def test_status_says_which_numbers_count_all_runs(node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    spent = SpendEvent(
        round=1,
        provider="box",
        model="m",
        requests=1,
        tokens=2,
        prompt_tokens=1,
        completion_tokens=1,
        lost=0,
        usd=0.5,
        usd_total=1.5,
    )
    log = EventLog(node.events)
    log(spent)
    log.close()
    assert cli.run(["status"]) == Exit.DONE
    heading, _, scope = capsys.readouterr().out.splitlines()
    assert " spent " in heading
    assert scope == "Counted over all of a node's runs: spent."


@pytest.mark.parametrize(
    "phase",
    [
        "waiting for localhost-8080:SmolLM2-135M-Instruct.Q4_1.gguf (it limits the rate of requests), prompts answered",
        "waiting for the first answer of localhost-8080:SmolLM2-135M-Instruct.Q4_1.gguf",
        "pushing to a-company-with-a-long-name/SmolLM2-135M-Instruct-that-spells-backward",
    ],
)
def test_a_long_name_in_a_phase_leaves_room_for_the_other_columns(
    phase: str, node: NodeFiles, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    emit = EventLog(node.events)
    emit(PhaseEvent(name=phase, done=1, total=2))
    emit.close()
    columns = {60: ["round", "accuracy"], 100: ["round", "accuracy", "per", "round", "left", "up"]}
    for width, rest in columns.items():
        monkeypatch.setattr("swarmctl.terminal.table.width_of", lambda _, width=width: width)
        assert cli.run(["status"]) == Exit.DONE
        assert capsys.readouterr().out.split("\n")[0].split()[: 2 + len(rest)] == ["node", "state", *rest]


def test_a_node_in_its_first_round_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with opened(Config.model_validate({"node": {"name": "new"}}), lambda name: name) as opened_node:
        assert cli.run(["status"]) == Exit.DONE
        assert re.search(r"new +starting ", capsys.readouterr().out)
        emit = EventLog(opened_node.files.events)
        emit(StartEvent(node="new", tasks=["spell_backward"], seed=0, rounds=5, groups=2, group_size=4))
        emit.close()
        assert cli.run(["status"]) == Exit.DONE
        assert re.search(r"new +first round ", capsys.readouterr().out)


@pytest.mark.slow
def test_a_narrow_terminal_gets_fewer_columns(node: NodeFiles) -> None:
    shown = {width: printed([*STAND_IN, "status"], columns=width)[1] for width in (160, 80, 60, 40)}
    assert all(max(map(len, text.splitlines())) < width for width, text in shown.items()), shown
    heads = [len(text.splitlines()[0].split()) for text in shown.values()]
    assert heads == sorted(heads, reverse=True)
    assert "maths" in shown[40]


@pytest.mark.slow
def test_several_nodes_stay_a_table_on_a_narrow_terminal(node: NodeFiles) -> None:
    for name in ("a-node-with-a-long-name", "demo"):
        bare_node(name)
    for width in (60, 40):
        heading, *rows = printed([*STAND_IN, "status"], columns=width)[1].splitlines()
        assert heading.split()[:2] == ["node", "state"]
        assert [row.split()[0] for row in rows[:3]] == ["a-node-with-a-long-name", "demo", "maths"]
        note = " ".join(rows[3:])
        assert note.startswith("Not shown: ")
        assert note.endswith("Use a wider terminal, or --json.")
    heading, *_ = printed([*STAND_IN, "status"], columns=60)[1].splitlines()
    assert heading.split() == ["node", "state", "round", "accuracy"]


@pytest.mark.slow
def test_watch_redraws_in_place_and_ends_quietly(node: NodeFiles) -> None:
    terminal = spawn([*STAND_IN, "status", "--watch"], environment=os.environ | {"TERM": "xterm", "CI": ""}, columns=80)
    for _ in range(2):
        terminal.expect_exact("maths")
    between = str(terminal.before)
    assert "\x1b[1A" in between  # the second time, it is drawn over the first
    assert "\x1b[H" not in between  # what was on the terminal before stays
    assert "To leave, press Ctrl-C." in between
    terminal.sendintr()
    rest = rest_of(terminal)
    assert "Interrupted" not in rest
    assert "Traceback" not in rest
    assert terminal.exitstatus == Exit.INTERRUPTED


@pytest.mark.slow
def test_watch_shows_a_long_command_completely() -> None:
    long = "/".join(["a-directory"] * 12)
    with opened(Config.model_validate({"node": {"name": "tea"}}), lambda name: name) as opened_node:
        emit = EventLog(opened_node.files.events)
        emit(StartEvent(node="tea", tasks=["spell_backward"], seed=0, rounds=5, groups=2, group_size=4))
        emit(ErrorEvent(code="ModelError", message="no model", next=f"swarmctl run --model {long}"))
        emit(StopEvent(reason="error", round=0, steps=0))
        emit.close()
    plain = {"TERM": "xterm", "CI": "", "COLUMNS": "60"}  # workers of a parallel test run set COLUMNS
    terminal = spawn([*STAND_IN, "status", "--watch"], environment=os.environ | plain, columns=60)
    terminal.expect_exact("  try: ")
    terminal.expect_exact("To leave, press Ctrl-C.")
    shown = str(terminal.before)
    terminal.sendintr()
    rest_of(terminal)
    assert all(len(line) <= 60 for line in shown.split("\r\n"))
    assert shown.replace("\r\n", "").endswith(f"swarmctl run --model {long}")


@pytest.mark.slow
def test_watch_in_a_pipe_prints_the_state_repeatedly(node: NodeFiles) -> None:
    process = subprocess.Popen([*STAND_IN, "status", "--watch"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline() for _ in range(5)]
        assert [line.partition(" ")[0] for line in lines] == ["node", "maths", "\n", "node", "maths"]
        process.send_signal(signal.SIGINT)
        assert wait_for_end(process, 10) == Exit.INTERRUPTED
    finally:
        process.kill()
        process.stdout.close()


def test_status_shows_an_outage_until_the_provider_is_back(node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    def status() -> tuple[list[str], str | None]:
        assert cli.run(["status"]) == Exit.DONE
        _, _, *problems = capsys.readouterr().out.splitlines()
        assert cli.run(["status", "--json"]) == Exit.DONE
        (row,) = json.loads(capsys.readouterr().out)["nodes"]
        return problems, row["provider_down"]

    emit = EventLog(node.events)
    assert status() == ([], None)
    emit(WarningEvent(code="provider_down", message="…", provider="mybox", fallback="local"))
    for _ in range(3000):  # the warning is no longer among the recent events
        emit(RoundEvent(round=1, rounds=5, seconds={"train": 1.0}, tokens_per_second=1.0))
    assert status() == (["maths: mybox unavailable, falling back"], "mybox")
    emit(WarningEvent(code="provider_back", message="…", provider="mybox"))
    assert status() == ([], None)
    emit(WarningEvent(code="provider_down", message="…", provider="mybox"))
    assert status() == (["maths: mybox unavailable, waiting"], "mybox")
    emit.close()
    node.lock.unlink()  # as if its process had exited
    assert status() == ([], None)


@pytest.mark.parametrize(
    ("reason", "state"), [("done", "done"), ("signal", "stopped"), ("error", "failed"), (None, "dead")]
)
def test_a_node_that_ended(reason: str | None, state: str, node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    if reason is not None:
        emit = EventLog(node.events)
        emit(ErrorEvent(code="x", message="it broke"))
        emit(StopEvent(reason=reason, round=2, steps=2))
        emit.close()
    node.lock.unlink()  # as if its process had exited
    assert cli.run(["status", "--json"]) == Exit.DONE
    (row,) = json.loads(capsys.readouterr().out)["nodes"]
    assert row["state"] == state
    assert row["pid"] is None
    if reason is not None:
        assert row["error"] == {"code": "x", "message": "it broke"}


def test_a_node_that_failed_shows_the_command_to_try_next(node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    emit = EventLog(node.events)
    emit(ErrorEvent(code="x", message="it broke", next="swarmctl run --profile demo"))
    emit(StopEvent(reason="error", round=2, steps=2))
    emit.close()
    node.lock.unlink()  # as if its process had exited
    assert cli.run(["status"]) == Exit.DONE
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "maths: it broke",
        f"  try: {typed('swarmctl run --profile demo')}",
    ]


@pytest.mark.parametrize(("reason", "state"), [("done", "done"), ("error", "failed"), (None, "dead")])
def test_status_without_the_log(
    reason: str | None, state: str, node: NodeFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(node.journal, "")
    for round_, accuracy in ((0, 0.25), (2, 0.5)):
        journal.write_evaluation(Evaluation(round_, accuracy, 200, {}))
    for round_ in range(2):
        journal.commit(Manifest(round_, round_, 0, 1, ()))
    journal.close()
    emit = RunRecorder(node.run, discard)
    emit(StartEvent(node="maths", tasks=["spell_backward"], seed=0, rounds=5, groups=2, group_size=4))
    if reason == "error":
        emit(ErrorEvent(code="x", message="it broke"))
    if reason is not None:
        emit(StopEvent(reason=reason, round=2, steps=2))
    node.lock.unlink()  # as if its process had exited
    rows = []
    for _ in range(2):
        assert cli.run(["status", "--json"]) == Exit.DONE
        rows += json.loads(capsys.readouterr().out)["nodes"]
        for measured in ("round_seconds", "tokens_per_second", "share_seconds", "unverified"):  # only in the log
            rows[-1].pop(measured)
        node.events.unlink(missing_ok=True)
    assert rows[0] == rows[1]
    assert (rows[1]["state"], rows[1]["round"], rows[1]["accuracy_after"]) == (state, 2, 0.5)
    assert rows[1]["error"] == ({"code": "x", "message": "it broke"} if reason == "error" else None)


def test_status_counts_completions_that_could_not_be_verified(
    node: NodeFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    emit = EventLog(node.events)
    for replaced, unverified in ((2, 0), (3, 1)):
        emit(WorkersEvent(replaced=replaced, unverified=unverified))
    assert cli.run(["status", "--json"]) == Exit.DONE
    assert json.loads(capsys.readouterr().out)["nodes"][0]["unverified"] == 1
    assert cli.run(["status"]) == Exit.DONE
    assert "1 completion could not be verified, over all runs" in capsys.readouterr().out


def test_a_node_that_does_not_exist(node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["status", "--node", "math"]) == Exit.CONFIGURATION
    assert "did you mean maths?" in capsys.readouterr().err


def test_two_names_for_one_node_are_refused(node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["logs", "maths", "--node", "other"]) == Exit.USAGE
    assert "two node names: maths and other; use only one" in capsys.readouterr().err


def test_status_takes_several_names(node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    bare_node("other")
    bare_node("third")
    assert cli.run(["status", "other", "maths", "--json"]) == Exit.DONE
    assert [row["node"] for row in json.loads(capsys.readouterr().out)["nodes"]] == ["other", "maths"]
    assert cli.run(["status", "other", "--node", "maths"]) == Exit.DONE
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["node", "other", "maths"]
    assert cli.run(["status", "other", "mahts"]) == Exit.CONFIGURATION
    assert "did you mean maths?" in capsys.readouterr().err
