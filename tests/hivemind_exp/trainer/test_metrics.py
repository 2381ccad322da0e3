"""TensorBoard and Weights & Biases get every metric under its name and source, but only if enabled."""

from __future__ import annotations

from pathlib import Path

import pytest

from hivemind_exp.rollouts.types import Group, Prompt, Rollout
from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.base import Question, RewardTerm, Score
from hivemind_exp.trainer.round_loop import term_means
from tests.support.nodes import Events, make_config, run

EXPECTED = {"reward/policy", "reward_std/policy", "completion_length/policy", "tokens/policy", "grad_norm", "loss"}
EXPECTED |= {"entropy/policy", "learning_rate"}


def test_the_mean_of_each_reward_term_counts_missing_ones_as_zero() -> None:
    def scored(kind: Kind, *values: float) -> Group:
        terms = [(RewardTerm("short", value, None, ""),) if value else () for value in values]
        rows = tuple(rollout(kind) for _ in values)
        return Group(asked, rows, tuple(Score(0.0, True, "", each) for each in terms))

    asked = Prompt(Question("mine.py", "train", 0, 0, "?", {}, "d", "k"), "answer", (), ())
    groups = [scored(Kind.POLICY, 0.4, 0.0), scored(Kind.POLICY, 0.2, 0.2), scored(Kind.TEACHER, 0.0)]
    assert term_means(groups) == {Kind.POLICY: {"short": pytest.approx(0.2)}}


def rollout(kind: Kind) -> Rollout:
    return Rollout(
        kind=kind, source="local", model="m", text="", ids=(1,), truncated=False, lag=0, behaviour_logps=None
    )


@pytest.mark.slow
def test_tensorboard_has_every_round(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(make_config(report={"to": ["tensorboard"]}), tmp_path)
    [directory] = {path.parent for path in tmp_path.rglob("events.out.tfevents*")}
    assert directory == tmp_path / "tensorboard"
    accumulator = EventAccumulator(str(directory))
    accumulator.Reload()
    tags = {tag.removeprefix("train/") for tag in accumulator.Tags()["scalars"]}
    assert tags >= EXPECTED
    assert "kl/policy" not in tags
    assert [event.step for event in accumulator.Scalars("train/reward/policy")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_wandb_offline_has_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    run(make_config(report={"to": ["wandb"]}, game={"rounds": 2}), tmp_path)
    [record] = tmp_path.rglob("*.wandb")
    assert record.parent.name.startswith("offline-run-")
    content = record.read_bytes()
    assert b"reward/policy" in content


def test_nothing_is_reported_unless_enabled(tmp_path: Path) -> None:
    run(make_config(game={"rounds": 1}), tmp_path)
    assert not list(tmp_path.rglob("*tfevents*"))
    assert not list(tmp_path.rglob("*wandb*"))


@pytest.mark.slow
def test_events_carry_the_documented_fields(tmp_path: Path) -> None:
    events = Events()
    run(make_config(), tmp_path, emit=events)
    assert [event["round"] for event in events.of("round")] == list(range(6))
    assert all(set(e["seconds"]) == {"generate", "verify", "train", "share", "other"} for e in events.of("round"))
    step = events.of("step")[0]
    assert {"loss", "grad_norm", "learning_rate", "entropy", "kl", "clip_fraction", "tokens", "source"} <= set(step)
    assert step["kl"] is None
    rollouts = events.of("rollouts")[0]
    assert (rollouts["source"], rollouts["stage"], rollouts["count"]) == ("policy", "answer", 12)
    assert [event["round"] for event in events.of("eval")] == [0, 4, 6]
    assert {event["split"] for event in events.of("eval")} == {"heldout"}
