"""A fall of the accuracy restores the last good weights; those from whom the node had learned are quarantined."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from hivemind_exp.config import Config
from hivemind_exp.errors import CheckpointError, FileProblem
from hivemind_exp.intervals import paired, sign_test
from hivemind_exp.journal.audit import StepOutcome
from hivemind_exp.journal.canary_log import CanaryLog, Suspect, read_quarantine, write_quarantine
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Evaluation, Manifest, TrainingRow
from hivemind_exp.source_kinds import Kind
from hivemind_exp.swarm.identity import animal_name
from hivemind_exp.trainer.canary import ROUNDS, Canary
from hivemind_exp.trainer.checkpoints import CheckpointStore
from hivemind_exp.trainer.round_loop import NodeProgress
from tests.support.recorded_events import Events
from tests.support.step_trainers import make_step_trainer

QUESTIONS = 40


def row(kind: Kind, source: str) -> TrainingRow:
    return TrainingRow(kind, source, "spelling", 0, (1, 2), (3, 4), "ab", 1.0, 0.5, 0)


class Weights:
    """Stands in for the step trainer: its state is one number."""

    def __init__(self) -> None:
        self.state = "start"

    def save(self, directory: Path) -> None:
        (directory / "weights").write_text(self.state)

    def restore(self, directory: Path) -> None:
        self.state = (directory / "weights").read_text()


class Node:
    """A node of which only the canary is real."""

    def __init__(self, root: Path, **config: Any) -> None:
        settings = {"node": {"name": "maths"}, "model": {"name": "tiny"}, "tasks": ["spell_backward"]}
        self.config = Config.model_validate({**settings, "offload": {"provider": "openai"}, **config})
        self.events, self.weights, self.progress = Events(), Weights(), NodeProgress()
        self.root = root
        self.open()

    def open(self) -> None:
        """Start the node, as after a crash."""
        self.journal = Journal(self.root / "journal.sqlite", "swarm")
        self.store = CheckpointStore(self.root / "checkpoints", 2, self.events)
        self.log = CanaryLog(self.root / "journal.sqlite")
        self.quarantine = self.root / "quarantine.json"
        self.canary = Canary(
            *(self.config, self.log, self.quarantine, self.store, self.weights, self.progress, self.events),  # type: ignore[arg-type]
            save=self.save,
        )

    def close(self) -> None:
        self.log.close()
        self.journal.close()

    def save(self) -> None:
        self.store.save(self.progress.step, self.progress.round, self.weights.save)

    def learn(self, state: str, *rows: TrainingRow, norm: float = 1.0) -> None:
        """Take a step that leads to weights called ``state``."""
        step = self.progress.step
        self.journal.commit(Manifest(step, step, 0, 1, rows))
        self.journal.write_result(step, StepOutcome(0.0, norm, "{}"))
        self.weights.state = state
        self.progress.step = self.progress.round = step + 1

    def evaluate(self, correct: int) -> bool:
        """Evaluate weights that answer the first ``correct`` questions correctly."""
        answers = {f"{number:064x}"[::-1]: number < correct for number in range(QUESTIONS)}
        found = Evaluation(self.progress.round, correct / QUESTIONS, QUESTIONS, {}, answers)
        self.journal.write_evaluation(found)
        return self.canary.watch(found)

    def warnings(self) -> list[str]:
        return [event["message"] for event in self.events.of("warning")]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.close()


TEACHER, OWN = row(Kind.TEACHER, "openai:gpt-4o-mini"), row(Kind.POLICY, "local")
PEER = row(Kind.PEER, "12D3KooWGC7PuG8iX3gLdZPzZRzTbLiZqYdkh1RbpVjfKNkbzRPm")


def test_a_fall_restores_the_last_good_weights_and_quarantines_the_suspects(node: Node) -> None:
    assert not node.evaluate(20)
    node.learn("good", OWN, row(Kind.PEER, "earlier"))
    assert not node.evaluate(30)
    node.learn("bad", OWN, TEACHER)
    node.learn("worse", OWN, PEER)
    node.save()
    assert node.evaluate(5)
    assert node.weights.state == "good"
    assert node.canary.barred() == {"openai", PEER.source}
    (message,) = node.warnings()
    assert message == (
        "accuracy on the held-out questions fell from 75% (round 1) to 12% (round 3). Of the same 40 questions, 25 are "
        "wrong now and were correct before, and 0 the reverse: a change of -78 to -47 points. Restored the weights "
        f"of round 1. Since then, the node had learned from 1 completion of peer {animal_name(PEER.source)}, 1 "
        "completion of openai. It does not learn from them again before round 53. To lift this now: swarmctl "
        "quarantine maths --lift all"
    )
    # The next start has the restored weights, although the bad ones had been saved under the same step.
    newest = node.store.latest()
    assert newest is not None
    assert (newest.step, (newest.path / "weights").read_text()) == (3, "good")
    node.progress.round = 3 + ROUNDS
    assert node.canary.barred() == frozenset()


def test_a_gradient_that_has_grown_is_mentioned(node: Node) -> None:
    node.learn("good", TEACHER, norm=1.0)
    node.evaluate(30)
    node.learn("bad", TEACHER, norm=9.0)
    node.evaluate(5)
    assert "The median gradient norm grew from 1 to 9, so the learning rate may be too high, too." in node.warnings()[0]


@pytest.mark.parametrize("correct", [30, 26, 29, 40])
def test_small_differences_are_chance(correct: int, node: Node) -> None:
    node.evaluate(30)
    node.learn("other", OWN, TEACHER)
    assert not node.evaluate(correct)
    assert node.weights.state == "other"
    assert node.warnings() == []


def test_a_slow_decline_is_compared_with_the_last_evaluation_that_was_not_worse(node: Node) -> None:
    node.evaluate(40)
    for correct, falls in ((36, False), (32, False), (26, True)):
        node.learn(f"{correct}", OWN, TEACHER)
        assert node.evaluate(correct) == falls
    assert node.weights.state == "start"


def test_a_node_that_learned_only_from_itself_is_told_about_its_learning_rate(node: Node) -> None:
    node.learn("good", OWN, norm=1.0)
    node.evaluate(30)
    node.learn("bad", OWN, norm=40.0)
    assert node.evaluate(5)
    assert node.weights.state == "bad"
    assert node.canary.barred() == frozenset()
    (message,) = node.warnings()
    assert "Since then the node has learned only from its own completions" in message
    assert "The median gradient norm was 1 before and 40 since" in message
    assert "try train.learning_rate=3e-06 (now 1e-05)" in message
    node.learn("still bad", OWN)
    assert node.evaluate(5)
    assert len(node.warnings()) == 1


def test_if_it_falls_again_without_the_suspects_they_are_not_blamed_again(node: Node) -> None:
    node.evaluate(30)
    node.learn("bad", TEACHER)
    node.evaluate(5)
    node.learn("bad again", OWN)
    assert node.evaluate(4)
    assert node.weights.state == "bad again"
    assert node.canary.barred() == {"openai"}
    assert (
        "It fell again while peers and providers were quarantined, so they may not be the cause. The learning rate is "
        "probably too high" in node.warnings()[1]
    )


def test_the_checkpoint_that_may_be_restored_is_kept_while_newer_ones_come_and_go(node: Node) -> None:
    node.evaluate(30)
    for number in range(6):
        node.learn(f"{number}", TEACHER)
        node.save()
    assert sorted(int(path.name) for path in node.store.root.iterdir()) == [0, 5, 6]
    assert node.store.oldest_step() == 5  # steps before it need not be kept for it
    node.close()
    node.open()
    node.learn("7", TEACHER)
    node.save()
    assert sorted(int(path.name) for path in node.store.root.iterdir()) == [0, 6, 7]
    node.evaluate(40)
    node.learn("8", TEACHER)
    node.save()
    assert sorted(int(path.name) for path in node.store.root.iterdir()) == [7, 8]


def test_a_node_without_others_saves_no_extra_checkpoint(tmp_path: Path) -> None:
    with closing(Node(tmp_path, offload={"provider": "off"})) as node:
        node.evaluate(30)
        assert list(node.store.root.iterdir()) == []


@pytest.mark.parametrize("at", ["weights", "quarantine", "checkpoint", "done"])
def test_killed_in_the_middle_a_resume_ends_with_the_restored_weights(
    at: str, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.evaluate(30)
    node.learn("bad", TEACHER)
    node.save()

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if at == "weights":
            patch.setattr(node.weights, "restore", killed)
        elif at == "quarantine":
            patch.setattr("hivemind_exp.trainer.canary.write_quarantine", killed)
        elif at == "checkpoint":
            patch.setattr("hivemind_exp.trainer.checkpoints._seal", killed)
        if at == "done":
            node.evaluate(5)
        else:
            with pytest.raises(KeyboardInterrupt):
                node.evaluate(5)
    node.close()
    node.open()
    newest = node.store.latest()
    assert newest is not None
    assert newest.step == 1
    node.weights.restore(newest.path)
    assert node.canary.finish_restoration() == (at != "done")
    assert not node.canary.finish_restoration()
    assert node.weights.state == "start"
    assert node.canary.barred() == {"openai"}
    newest = node.store.latest()
    assert newest is not None
    assert (newest.path / "weights").read_text() == "start"


def test_a_lost_checkpoint_is_an_error(node: Node) -> None:
    node.evaluate(30)
    node.learn("bad", TEACHER)
    shutil.rmtree(node.store.root / "00000000")
    with pytest.raises(CheckpointError, match="no checkpoint 0"):
        node.evaluate(5)


def test_a_user_can_lift_a_quarantine_while_the_node_runs(node: Node) -> None:
    node.evaluate(30)
    node.learn("bad", TEACHER, PEER)
    node.evaluate(5)
    write_quarantine(node.quarantine, (Suspect("openai", 1, 51),))
    assert node.canary.barred() == {"openai"}
    node.quarantine.write_text('{"sources": [1]}')
    with pytest.raises(FileProblem, match=r"quarantine\.json is damaged"):
        node.canary.barred()
    assert read_quarantine(node.root / "none") == ()


def test_intervals_of_paired_shares() -> None:
    assert paired(25, 0, 40) == pytest.approx((-0.775, -0.475), abs=0.001)
    assert paired(0, 0, 40) == (0, 0)
    low, high = paired(5, 5, 40)
    assert low == -high < 0
    assert sign_test(10, 0) == pytest.approx(1 / 1024)
    assert sign_test(0, 5) == 1
    assert sign_test(1, 1) == 0.75


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_a_trainer_returns_to_a_checkpoint_in_place(lora: dict[str, int] | None, tmp_path: Path) -> None:
    trainer = make_step_trainer(tmp_path, model={"lora": lora} if lora else {})
    policy = trainer.policy
    step = Manifest(0, 0, 1, 4, (row(Kind.POLICY, "local"),), tokens=(2, 0))

    def weights() -> list[torch.Tensor]:
        return [each.detach().clone() for each in policy.parameters()]

    trainer.step(step)
    saved = tmp_path / "saved"
    saved.mkdir()
    trainer.save(saved)
    before = weights()
    trainer.step(step)
    after = weights()
    assert not all(map(torch.equal, before, after))
    trainer.restore(saved)
    assert trainer.policy is policy
    assert all(map(torch.equal, before, weights()))
    trainer.step(step)  # the optimizer is back, too
    assert all(map(torch.equal, after, weights()))
