"""Environments are tried out once, all together, and again when something has changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import TaskConfig
from hivemind_exp.errors import TaskError
from hivemind_exp.tasks.base import TaskSpec
from hivemind_exp.tasks.environments import RECORD, Installation
from hivemind_exp.tasks.families import environment, environment_trials
from hivemind_exp.tasks.registry import check_tasks
from tests.support.stand_in_verifiers import install

CODE = """
import os
import verifiers as vf

with open({loads!r}, "a", encoding="utf-8") as file:
    print(os.getpid(), file=file)


def right(completion, answer):
    return float(completion[-1]["content"] == answer)


def load_environment(count=20, kind="SingleTurnEnv"):
    rows = [
        {{"prompt": [{{"role": "user", "content": str(n)}}], "answer": str(n), "task": "default"}}
        for n in range(count)
    ]
    return getattr(vf, kind)(rows, vf.Rubric([right], [1.0], vf.Parser()), vf.Parser())
"""


@pytest.fixture
def loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install the environment ``count``. The file takes the id of each process that loads it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "loads"
    install("count", CODE.format(loads=str(path)))
    return path


def tasks(*counts: int) -> list[TaskConfig]:
    return [TaskConfig(name="env:count", params={"count": count}) for count in counts]


def loaded(path: Path) -> int:
    """Return by how many processes it was loaded."""
    return len(set(path.read_text().split()))


def test_what_was_tried_out_is_not_loaded_again_until_something_changes(loads: Path) -> None:
    both = tasks(20, 30)
    assert check_tasks(both) == []
    assert loaded(loads) == 1  # one process for both
    assert check_tasks([TaskConfig(name="gcd"), *reversed(both)]) == []
    assert loaded(loads) == 1
    assert check_tasks(tasks(30, 40)) == []
    assert loaded(loads) == 2  # for the second one
    record = Installation.of("env:count").directory / RECORD
    about: dict[str, Any] = json.loads(record.read_text())
    record.write_text(json.dumps(about | {"versions": about["versions"] | {"count": "0.2.0"}}))
    assert check_tasks(tasks(30)) == []
    assert loaded(loads) == 3


def test_conversations_are_named_each_time(loads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[list[str]] = []

    def load(specs: Sequence[TaskSpec]) -> list[dict[str, Any]]:
        tried.append([spec.label for spec in specs])
        return [{"turns": spec.params["count"] > 20} for spec in specs]

    monkeypatch.setattr(environment, "_tried", load)
    assert [check_tasks(tasks(20, 30)) for _ in range(2)] == [["env:count-2"]] * 2
    assert check_tasks(tasks(30)) == ["env:count"]
    assert tried == [["env:count", "env:count-2"], [], []]


def test_one_that_is_refused_is_tried_out_again(loads: Path) -> None:
    for times in (1, 2):
        with pytest.raises(TaskError, match="OtherEnv, which has a loop of its own"):
            check_tasks([TaskConfig(name="env:count", params={"kind": "OtherEnv"})])
        assert loaded(loads) == times


@pytest.mark.parametrize("content", ["", "[]", '{"x"', '{"x": []}'])
def test_a_damaged_file_is_replaced(loads: Path, content: str) -> None:
    kept = Installation.of("env:count").directory / environment_trials.FILE
    kept.write_text(content)
    for _ in range(2):
        check_tasks(tasks(20))
    assert loaded(loads) == 1


def test_a_file_that_cannot_be_written_only_costs_time(loads: Path) -> None:
    (Installation.of("env:count").directory / environment_trials.FILE).mkdir()
    for _ in range(2):
        check_tasks(tasks(20))
    assert loaded(loads) == 2


def test_only_the_newest_outcomes_are_kept(loads: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment_trials, "MOST", 1)
    for count in (20, 30, 30, 20):
        check_tasks(tasks(count))
    assert loaded(loads) == 3
