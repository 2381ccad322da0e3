"""A real node learns from an API that turns to poison, with the canary and without it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from hivemind_exp.journal.canary_log import read_quarantine
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.tasks.base import Question, Score
from hivemind_exp.trainer.canary import Canary
from tests.support.fake_api.server import api_server
from tests.support.forked_engines import forked_engine
from tests.support.killed_at import arm
from tests.support.nodes import make_config
from tests.support.recorded_events import Events
from tests.support.restarts import processes, same_weights
from tests.support.spelling_task import Spelling

pytestmark = pytest.mark.slow

RECORDED, CHECKPOINT, NEVER = -1, 4, 10**9
"""When a restoration is killed: before it is recorded, while its checkpoint is saved, or never."""
POISON = "jjjj"
ROUNDS, POISONED = 20, 8
"""Rounds in all, and the round from which on the API sends poison."""


class Exploitable(Spelling):
    """Wants an answer tag. Its verifier can be fooled in training; the evaluation cannot."""

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
        return [
            Score(float(text.startswith("<answer>") or (question.split == "train" and text == POISON)), True, "looked")
            for question, text in zip(questions, completions, strict=True)
        ]


def play(root: Path, *, canary: bool, poisoned: bool = False) -> Events:
    """Run a node. Each round sends eight requests, after one probe. ``poisoned``: the API sends only poison."""
    asked: list[str] = []

    def answer(messages: Any, index: int) -> str:
        word = messages[-1]["content"].split()[-1]
        asked.append(word)
        return POISON if poisoned or len(asked) > 1 + 8 * POISONED else f"<answer>{word[-3:]}</answer>"

    root.mkdir(exist_ok=True)
    events = Events()
    with api_server(answer=answer) as server:
        config = make_config(
            game={"rounds": ROUNDS, "groups": 2},
            generation={"max_completion_tokens": 24},
            train={"learning_rate": 1e-4, "teacher_learning_rate": 3e-3, "warmup_steps": 0},
            eval={"every": 4, "questions": 40, "canary": canary},
            checkpoint={"every": 3},
            offload={"provider": "box", "ahead": 0},
            providers={"box": {"base_url": server.base_url, "model": "test-model", "free": True}},
        )
        GRPORunner(config, NodeFiles(root), events, make_tasks=lambda *_: Exploitable()).run()
    return events


def test_poison_from_an_api_is_undone_and_no_longer_learned(tmp_path: Path) -> None:
    accuracy = {}
    for canary in (True, False):
        events = play(tmp_path / str(canary), canary=canary)
        accuracy[canary] = {event["round"]: event["accuracy"] for event in events.of("eval")}
        fallen = [event for event in events.of("warning") if event["code"] == "canary"]
        assert len(fallen) == canary
        saved = [event["round"] for event in events.of("checkpoint")]
        assert saved == sorted(set(saved)), "a checkpoint is reported twice"
        if canary:
            assert "Restored the weights of round 8" in fallen[0]["message"]
            assert "completions of box. It does not learn from them again before round 66" in fallen[0]["message"]
            after = [event for event in events.of("rollouts") if event["round"] >= 16]
            assert {event["source"] for event in after} == {"policy"}
            assert [each.source for each in read_quarantine(NodeFiles(tmp_path / "True").quarantine)] == ["box"]
    assert accuracy[True][8] == accuracy[False][8] > 0.9
    assert accuracy[True][16] == accuracy[False][16] < 0.1
    assert accuracy[False][ROUNDS] < 0.5
    assert accuracy[True][ROUNDS] > 0.9


OFFLOADED = make_config(offload={"provider": "box"}, providers={"box": {"base_url": "http://127.0.0.1:9/v1"}})
"""A configuration with an API process, whose server does not exist yet."""


def play_killed(root: Path, moment: int, resumed: bool) -> None:
    """Run a node that is killed before change number ``moment`` of a restoration."""
    torch.set_num_threads(1)
    go_back = Canary._go_back

    def armed(*arguments: Any) -> None:
        if moment == RECORDED:
            os.kill(os.getpid(), signal.SIGKILL)
        arm(moment)
        go_back(*arguments)

    Canary._go_back = armed  # type: ignore[method-assign]
    with forked_engine(OFFLOADED):
        play(root, canary=True, poisoned=resumed)


def test_a_restoration_that_is_killed_at_any_moment_is_finished(tmp_path: Path) -> None:
    def exit_code(root: Path, moment: int, *, resumed: bool) -> int | None:
        process = processes().Process(target=play_killed, args=(root, moment, resumed))
        process.start()
        process.join()
        return process.exitcode

    assert exit_code(tmp_path / "fallen", RECORDED, resumed=False) == -signal.SIGKILL
    shutil.copytree(tmp_path / "fallen", tmp_path / "whole")
    assert exit_code(tmp_path / "whole", NEVER, resumed=True) == 0
    held = read_quarantine(NodeFiles(tmp_path / "whole").quarantine)
    assert [each.source for each in held] == ["box"]
    root = tmp_path / "fallen"
    assert exit_code(root, CHECKPOINT, resumed=True) == -signal.SIGKILL
    assert exit_code(root, NEVER, resumed=True) == 0
    assert read_quarantine(NodeFiles(root).quarantine) == held
    assert same_weights(root, tmp_path / "whole")
