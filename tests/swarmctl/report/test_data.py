"""The data of a report: the same numbers as the journal, ``rollouts stats`` and ``status``; fixed keys; no secrets."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from hivemind_exp.config import Config
from hivemind_exp.game.prompt_style import configured
from hivemind_exp.intervals import wilson
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.trainer.checkpoints import Checkpoint
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.paths import evals_directory
from swarmctl.report.accuracy import cost_per_point, gain, paired
from swarmctl.report.samples import MOST_CHARACTERS, shortened
from swarmctl.report.series import MOST_SPANS, Series
from swarmctl.report.timeline import Timeline
from swarmctl.settings.command_line import resolved_options, write_last
from swarmctl.settings.options import RunOptions
from swarmctl.storage.json_file import read_json, write_json
from swarmctl.trained.evaluated import Evaluated
from swarmctl.trained.target import TrainedNode
from swarmctl.trained.verdicts import write_verdicts
from tests.support.reported_nodes import ACCURACIES, LONG, SECRET, quiet_node, reported_node, write_events

KEYS = [
    *("node", "state", "phase", "model", "round", "rounds", "swarm", "peers", "groups_from_peers", "since", "updated"),
    *(
        "usd_total",
        "usd_reserved",
        "usd_cap",
        "error",
        "curriculum",
        "swarm_name",
        "created",
        "tasks",
        "device",
        "accelerator",
    ),
    *("processes", "parameters", "trainable", "accuracy", "cost_per_point", "rewards", "reward_terms", "learned"),
    "rollouts",
    *("series", "log_begins_at_round", "time", "money", "known_peers", "peers_over_time", "problems", "samples"),
    "configuration",
]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.run([*arguments, "--json"]) == Exit.DONE
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def reported(capsys: pytest.CaptureFixture[str], *names: str) -> dict[str, Any]:
    document = printed(capsys, "report", *names)
    assert list(document) == ["schema", "created", "version", "nodes", "comparisons"]
    assert all(list(node) == KEYS for node in document["nodes"])
    return document


def test_the_numbers_are_those_of_the_other_commands(capsys: pytest.CaptureFixture[str]) -> None:
    files = reported_node()
    node = reported(capsys, "maths")["nodes"][0]
    counts = printed(capsys, "rollouts", "stats", "maths")
    assert node["rollouts"] == {"stats": counts["stats"], "total": counts["total"]}
    state = printed(capsys, "status", "maths")["nodes"][0]
    assert {key: node[key] for key in KEYS[:16] if key != "updated"} == {
        key: state[key] for key in KEYS[:16] if key != "updated"
    }
    first, *_, last = node["accuracy"]["evaluations"]
    assert (first["accuracy"], last["accuracy"]) == (state["accuracy_before"], state["accuracy_after"])
    assert [last["low"], last["high"]] == pytest.approx(state["accuracy_interval"])
    assert node["money"]["usd"] == pytest.approx(counts["total"]["usd"] + counts["total"]["usd_unsettled"])
    assert sum(day["usd"] for day in node["money"]["by_day"]) == pytest.approx(counts["total"]["usd"])
    with closing(sqlite3.connect(files.journal)) as journal:
        query = "SELECT kind, COUNT(*), SUM(outcome >= 1), AVG(outcome) FROM completions GROUP BY kind ORDER BY kind"
        rows = journal.execute(query).fetchall()
        evaluations = journal.execute("SELECT round, accuracy FROM evaluations ORDER BY round").fetchall()
    found = [(row["kind"], row["completions"], row["correct"], row["reward"]) for row in node["rewards"]]
    assert found == [(kind, number, correct, pytest.approx(mean)) for kind, number, correct, mean in rows]
    assert [(each["round"], each["accuracy"]) for each in node["accuracy"]["evaluations"]] == evaluations


def test_series_and_times_are_those_of_the_events(capsys: pytest.CaptureFixture[str]) -> None:
    files = reported_node(rounds=20)
    node = reported(capsys, "maths")["nodes"][0]
    events = [json.loads(line) for line in files.events.read_text().splitlines()]
    rollouts = [event for event in events if event["event"] == "rollouts" and event["source"] == "policy"]
    rows = [row for row in node["series"]["rollouts"] if row["source"] == "policy"]
    assert [row["reward"] for row in rows] == pytest.approx([event["reward"] for event in rollouts])
    assert [(row["first"], row["last"], row["count"]) for row in rows] == [(n, n, 8) for n in range(1, 21)]
    assert rows[0]["terms"] == rollouts[0]["terms"]
    steps = {(row["first"], row["source"]): row for row in node["series"]["steps"]}
    assert steps[1, "policy"]["share"] == pytest.approx(3 / 4)
    assert steps[2, "teacher"]["share"] == pytest.approx(1 / 2.5)
    assert steps[1, "policy"]["nll"] is None
    seconds = node["time"]["seconds"]
    assert (seconds["generate"], seconds["train"], node["time"]["rounds"]) == (40.0, 30.0, 20)
    assert node["time"]["total"] == pytest.approx(sum(seconds.values()))
    assert node["cost_per_point"]["seconds"]["value"] == pytest.approx(20 * 4.25 / 65)
    assert node["cost_per_point"]["usd"]["value"] == pytest.approx(node["money"]["usd"] / 65)
    means = {(row["kind"], row["term"]): row["mean"] for row in node["reward_terms"]}
    assert means["policy", "format"] == pytest.approx(0.3)
    assert node["problems"][0] | {"last": None} == {
        "level": "warning", "code": "slow", "message": "this is slow", "times": 1, "last": None
    }  # fmt: skip


def test_a_node_without_a_history_has_no_invented_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    quiet_node("new")
    node = reported(capsys, "new")["nodes"][0]
    unknown = ("round", "cost_per_point", "rollouts", "time", "money", "usd_total", "parameters", "log_begins_at_round")
    assert {name: node[name] for name in unknown} == dict.fromkeys(unknown)
    assert (node["accuracy"]["gain"], node["samples"], node["state"]) == (None, [], "never started")


def test_settings_have_the_origin_of_the_run_that_set_them(capsys: pytest.CaptureFixture[str]) -> None:
    files = reported_node()
    write_last(files, resolved_options(RunOptions(node="maths", assignments=("game.rounds=7",))))
    rows = {row["key"]: row for row in reported(capsys, "maths")["nodes"][0]["configuration"]["settings"]}
    found = {key: (row["shown"], row["origin"], row["default"]) for key, row in rows.items()}
    assert found["train.learning_rate"] == ("0.002", "--set", False)  # of the run before
    assert found["game.rounds"] == ("7", "--set", False)
    assert found["model.name"] == ("tiny", "built-in demo", False)
    assert found["train.max_grad_norm"] == ("1", "default", True)


def test_nothing_that_looks_like_a_key_is_in_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    files = reported_node(evil=True)
    record = json.loads(files.config.read_text())
    invitation = "swarm1:" + "ab" * 32
    record["config"]["swarm"]["join"], record["config"]["model"]["revision"] = invitation, SECRET
    files.config.write_text(json.dumps(record))
    text = json.dumps(reported(capsys, "maths"))
    assert SECRET not in text
    assert SECRET[:20] not in text
    assert invitation not in text
    assert text.count("hidden") >= 4


def test_a_long_text_is_cut_and_says_by_how_much() -> None:
    found = shortened(LONG)
    assert found["begin"].startswith("<b>x y")
    assert found["end"].endswith("the end</b>")
    assert len(found["begin"]) + found["omitted"] + len(found["end"]) == len(LONG)
    assert shortened("two\nlines\tand \x1b[2J") == {"begin": "two\nlines\tand \\x1b[2J", "omitted": 0, "end": ""}
    across = "a " * (MOST_CHARACTERS // 2 - 204) + SECRET + " b" * MOST_CHARACTERS
    assert SECRET[:16] not in json.dumps(shortened(across))


def test_a_long_history_has_few_points_with_the_right_means() -> None:
    series = Series("source")
    rounds = 10 * MOST_SPANS
    for round_ in range(rounds):
        series.add(round_, ("policy",), means={"reward": float(round_), "kl": None}, weight=2.0, sums={"count": 3})
    rows = series.rows("reward", "kl", "count")
    assert len(rows) <= MOST_SPANS
    assert sum(row["count"] for row in rows) == 3 * rounds
    for row in rows:
        inside = range(row["first"] - 1, min(rounds, row["last"]))
        assert row["reward"] == pytest.approx(sum(inside) / len(inside))
        assert row["kl"] is None


def test_a_log_is_read_on_from_where_it_was_and_damaged_lines_are_left_out(home: object) -> None:
    files = reported_node(rounds=3)
    timeline = Timeline(files)
    timeline.read()
    with files.events.open("ab") as log:
        log.write(b'{"t": 1, "event": "round"}\n{"t": 1, "event": "step", "step": null}\n[]\nnot json\n')
        log.write(b'{"t": 2.0, "event": "round", "round": 3, "seconds"')
    timeline.read()
    assert timeline.rounds_timed == 3
    with files.events.open("ab") as log:
        log.write(b': {"generate": 2}}\n')
    write_events(files, 2, first=4)
    timeline.read()
    assert timeline.rounds_timed == 6
    assert [row["first"] for row in timeline.series()["rounds"]] == [1, 2, 3, 4, 5, 6]


def test_a_repeated_step_is_counted_once(home: object) -> None:
    files = reported_node(rounds=1)
    again = json.loads(files.events.read_text().splitlines()[4]) | {"replayed": True, "entropy": 99.0}
    with files.events.open("a") as log:
        log.write(json.dumps(again) + "\n")
    timeline = Timeline(files)
    timeline.read()
    assert again["event"] == "step"
    assert max(row["entropy"] for row in timeline.series()["steps"]) == pytest.approx(2.0)


def test_the_gain_and_what_a_point_cost_have_intervals() -> None:
    rows = []
    for round_, accuracy in ACCURACIES:
        low, high = wilson(accuracy, 200)
        rows.append({"round": round_, "accuracy": accuracy, "low": low, "high": high, "questions": 200})
    gained = gain(rows)
    assert gained is not None
    assert gained["value"] == pytest.approx(0.65)
    assert 0.55 < gained["low"] < 0.65 < gained["high"] < 0.75
    cost = cost_per_point(gained, 130.0, 6.5)
    assert cost is not None
    assert cost["points"] == pytest.approx(65)
    assert cost["seconds"]["value"] == pytest.approx(2.0)
    assert cost["usd"]["value"] == pytest.approx(0.1)
    assert cost["usd"]["low"] < 0.1 < cost["usd"]["high"]
    by_chance = gain([rows[0], rows[0] | {"accuracy": 0.27, "low": 0.21, "high": 0.34}])
    assert cost_per_point(by_chance, 130.0, 6.5) is None
    assert gain(rows[:1]) is None


def test_the_paired_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    import random

    draw, covered = random.Random(1), 0
    for _ in range(400):
        found = paired([draw.choices((1, 0, -1), (0.2, 0.7, 0.1))[0] for _ in range(60)])
        covered += found["low"] <= 0.1 <= found["high"]
    assert 0.92 <= covered / 400 <= 0.99
    assert paired([0.0] * 5)["low"] < 0 < paired([0.0] * 5)["high"]


def test_an_old_journal_and_an_old_config_are_read(capsys: pytest.CaptureFixture[str]) -> None:
    files: NodeFiles = reported_node()
    with closing(sqlite3.connect(files.journal)) as journal, journal:
        journal.execute("DROP TABLE lessons")
    record = json.loads(files.config.read_text())
    del record["origins"]
    files.config.write_text(json.dumps(record))
    node = reported(capsys, "maths")["nodes"][0]
    assert node["learned"] == []
    assert {row["origin"] for row in node["configuration"]["settings"]} == {None}


def evaluated(files: NodeFiles, round_: int, answers: str, questions_of: str = "one", *, first: int = 0) -> None:
    """Keep the verdicts of an evaluation: ``+`` for each question answered correctly."""
    created = (read_json(files.identity) or {})["created"]
    checkpoint = Checkpoint(files.checkpoints / str(round_), round_, round_) if round_ else None
    model = TrainedNode(files, Config(), checkpoint, {}, configured(Config().prompt, None))
    name = files.root.name
    about = {"questions": {"node": questions_of}, "generation": {"greedy": True}}
    directory = evals_directory() / f"{name}-{round_}-{questions_of}"
    directory.mkdir(parents=True)
    counts = [("spelling", f"q{first + number}", 1, int(answer == "+")) for number, answer in enumerate(answers)]
    write_verdicts(directory, about, Evaluated(name, model, name, {"created": created}), counts)


def test_nodes_are_compared_on_the_questions_that_both_were_asked(capsys: pytest.CaptureFixture[str]) -> None:
    one, two = reported_node("one"), reported_node("two", rounds=2)
    evaluated(one, 0, "+---------" * 4)
    evaluated(one, 20, "+++++-----" * 4)
    evaluated(two, 20, "++++++++--" * 4)
    evaluated(two, 0, "++++++++++" * 4, "two")  # other questions
    rows = reported(capsys, "one", "two")["comparisons"]
    found = {(row["node"], row["against"]): row for row in rows}
    assert list(found) == [("one", None), ("two", None), ("two", "one")]
    training, swarm = found["one", None], found["two", "one"]
    assert (training["rounds"], training["accuracy"], training["accuracy_against"]) == ([20, 0], 0.5, 0.1)
    assert (training["difference"]["value"], training["better"], training["worse"]) == (0.4, 16, 0)
    assert swarm["difference"]["value"] == pytest.approx(0.3)
    assert 0 < swarm["difference"]["low"] < 0.3 < swarm["difference"]["high"]
    assert (swarm["questions"], swarm["equal"], swarm["questions_of"]) == (40, 28, "one")
    assert swarm["p"] == pytest.approx(2 / 2**12, abs=1e-6)
    assert found["two", None]["difference"] is None
    assert found["two", None]["next"] == "swarmctl eval two --against base"


def test_a_new_node_with_an_old_name_has_no_part_in_its_evaluations(capsys: pytest.CaptureFixture[str]) -> None:
    files = reported_node("one")
    evaluated(files, 0, "+-+-")
    evaluated(files, 20, "++++")
    assert reported(capsys, "one")["comparisons"][0]["difference"] is not None
    record = read_json(files.identity) or {}
    write_json(files.identity, record | {"created": "2020-01-01T00:00:00Z"})
    assert reported(capsys, "one")["comparisons"][0]["difference"] is None
    (evals_directory() / "one-20-one" / "verdicts.json").write_text('{"schema": 1, "shares": []}')
    assert reported(capsys, "one")["comparisons"][0]["difference"] is None
