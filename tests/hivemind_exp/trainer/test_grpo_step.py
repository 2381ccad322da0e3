"""A step over several sources, and what it leaves unchanged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hivemind_exp.config import TrainConfig
from hivemind_exp.journal.records import Manifest, TrainingRow
from hivemind_exp.models.tiny import build_model
from hivemind_exp.rollouts.types import Group, Kind, Prompt, Rollout
from hivemind_exp.tasks.base import Question, Score
from hivemind_exp.trainer.advantages import build_rows
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer, StepAbandoned
from tests.support.step_trainers import TOKENIZER, make_step_trainer

SETTINGS = TrainConfig()


def row(kind: Kind, advantage: float, *, length: int = 3, group: int = 0) -> TrainingRow:
    return TrainingRow(kind, kind.value, "t", group, (10, 11), tuple(range(20, 20 + length)), "", 1.0, advantage, 0)


def manifest(*rows: TrainingRow, micro_batch: int = 8) -> Manifest:
    return Manifest(0, 0, 7, micro_batch, rows)


def weights(step_trainer: SourceGRPOTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in step_trainer.policy.state_dict().items()}


def test_own_and_external_losses_are_divided_by_their_own_tokens(tmp_path: Path) -> None:
    step_trainer = make_step_trainer(tmp_path, off_policy_weight=0.5)
    rows = [row(Kind.POLICY, 1.0, length=2), row(Kind.POLICY, -0.5, length=4), row(Kind.TEACHER, 0.8, length=30)]
    result = step_trainer.step(manifest(*rows))
    # ratios are 1: own (-2·1 + 4·0.5) / 6, external 0.5 · (-30·0.8) / 30
    assert result.loss == pytest.approx(0.0 - 0.4, abs=1e-6)
    assert result.tokens == 36
    assert set(result.by_kind) == {Kind.POLICY, Kind.TEACHER}


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_micro_batches_do_not_change_the_step(tmp_path: Path, micro_batch: int) -> None:
    rows = [row(Kind.POLICY, 1.0, length=2), row(Kind.PEER, 0.5, length=7), row(Kind.POLICY, -1.0, length=4)]
    whole, split = make_step_trainer(tmp_path / "a"), make_step_trainer(tmp_path / "b")
    assert split.step(manifest(*rows, micro_batch=micro_batch)).loss == pytest.approx(
        whole.step(manifest(*rows)).loss, abs=1e-6
    )
    # Compare gradients, not weights: AdamW's first step turns rounding errors of a gradient near 0 into its sign.
    for (name, one), other in zip(whole.policy.named_parameters(), split.policy.parameters(), strict=True):
        assert one.grad is not None
        assert torch.allclose(one.grad, other.grad, atol=1e-6), name


def test_zero_weight_rows_skip_the_forward_pass_but_count_as_tokens(tmp_path: Path) -> None:
    result = make_step_trainer(tmp_path).step(
        manifest(row(Kind.POLICY, 1.0, length=2), row(Kind.POLICY, 0.0, length=6))
    )
    assert (result.rows, result.tokens) == (1, 2)
    assert result.loss == pytest.approx(-2 / 8, abs=1e-6)


def test_a_step_with_nothing_to_learn_leaves_new_weights_unchanged(tmp_path: Path) -> None:
    step_trainer = make_step_trainer(tmp_path)
    before = weights(step_trainer)
    result = step_trainer.step(manifest(row(Kind.POLICY, 0.0)))
    assert (result.loss, result.grad_norm, result.by_kind) == (0.0, 0.0, {})
    assert all(torch.equal(value, before[name]) for name, value in weights(step_trainer).items())


def test_an_abandoned_step_leaves_weights_and_gradients_as_they_were(tmp_path: Path) -> None:
    step_trainer = make_step_trainer(tmp_path)
    before = weights(step_trainer)
    answers = iter([False, True])
    with pytest.raises(StepAbandoned):
        step_trainer.step(manifest(row(Kind.POLICY, 1.0), row(Kind.POLICY, -1.0), micro_batch=1), lambda: next(answers))
    assert all(torch.equal(value, before[name]) for name, value in weights(step_trainer).items())
    assert all(p.grad is None for p in step_trainer.policy.parameters())


def test_a_gradient_that_is_not_finite_leaves_the_weights_unchanged(tmp_path: Path) -> None:
    step_trainer = make_step_trainer(tmp_path)
    before = weights(step_trainer)
    result = step_trainer.step(manifest(row(Kind.POLICY, float("inf"))))
    assert not math.isfinite(result.grad_norm)
    assert all(torch.equal(value, before[name]) for name, value in weights(step_trainer).items())
    assert math.isfinite(step_trainer.step(replace(manifest(row(Kind.POLICY, 1.0)), step=1)).grad_norm)
    assert any(not torch.equal(value, before[name]) for name, value in weights(step_trainer).items())


def test_kl_is_measured_on_own_rows_against_the_frozen_copy(tmp_path: Path) -> None:
    step_trainer = make_step_trainer(tmp_path, reference=build_model(TOKENIZER, 0), beta=0.1)
    rows = [row(Kind.POLICY, 1.0), row(Kind.POLICY, -1.0, length=5), row(Kind.TEACHER, 1.0)]
    first = step_trainer.step(manifest(*rows))
    assert first.by_kind[Kind.POLICY]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert first.by_kind[Kind.TEACHER]["kl"] is None
    second = step_trainer.step(replace(manifest(*rows), step=1))
    assert second.by_kind[Kind.POLICY]["kl"] > 1e-4  # type: ignore[operator]


def test_kl_is_null_without_a_penalty(tmp_path: Path) -> None:
    assert make_step_trainer(tmp_path).step(manifest(row(Kind.POLICY, 1.0))).by_kind[Kind.POLICY]["kl"] is None


def test_a_peers_row_below_the_floor_has_no_effect(tmp_path: Path) -> None:
    own, one, other = row(Kind.POLICY, 1.0), row(Kind.PEER, 0.5, group=1), row(Kind.PEER, 0.9, length=6, group=2)
    step_trainer, without = make_step_trainer(tmp_path / "filtered"), make_step_trainer(tmp_path / "without")
    means = [sum(logps) / len(logps) for logps in step_trainer.log_probabilities([one, other])]
    likely, unlikely = (one, other) if means[0] > means[1] else (other, one)
    result = step_trainer.step(replace(manifest(own, likely, unlikely), floor=sum(means) / 2))
    # It only counts as tokens, like a row with weight 0.
    expected = without.step(manifest(own, likely, replace(unlikely, advantage=0.0)))
    assert result.by_kind[Kind.PEER]["filtered"] == 1
    assert result.loss == pytest.approx(expected.loss, abs=1e-6)
    for (name, moved), same in zip(step_trainer.policy.named_parameters(), without.policy.parameters(), strict=True):
        assert moved.grad is not None
        assert torch.allclose(moved.grad, same.grad, atol=1e-6), name


def test_the_optimizer_and_the_schedule_persist_across_steps(tmp_path: Path) -> None:
    step_trainer = make_step_trainer(tmp_path, warmup_steps=4)
    rates = [step_trainer.step(replace(manifest(row(Kind.POLICY, 1.0)), step=i)).learning_rate for i in range(6)]
    assert rates == pytest.approx([0.0, 0.0025, 0.005, 0.0075, 0.01, 0.01])
    moments = [state["step"].item() for state in step_trainer.optimizer.state_dict()["state"].values()]
    assert set(moments) == {6.0}


def saved_bytes(step_trainer: SourceGRPOTrainer) -> int:
    """Take one step and return the bytes of activations that its forward pass saved for the backward pass."""
    parameters = {parameter.data_ptr() for parameter in step_trainer.policy.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in parameters:
            saved[tensor.data_ptr()] = max(saved.get(tensor.data_ptr(), 0), tensor.nbytes)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step_trainer.step(manifest(*(row(Kind.POLICY, 1.0, length=40) for _ in range(8))))
    return sum(saved.values())


@pytest.mark.parametrize("adapter", [False, True], ids=["all weights", "LoRA"])
def test_gradient_checkpointing_saves_activations_and_changes_no_gradient(tmp_path: Path, adapter: bool) -> None:
    plain, checkpointed = (
        make_step_trainer(tmp_path / str(on), model={"gradient_checkpointing": on, "lora": adapter})
        for on in (False, True)
    )
    assert saved_bytes(checkpointed) < saved_bytes(plain) / 2
    for (name, one), other in zip(plain.policy.named_parameters(), checkpointed.policy.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or torch.equal(one.grad, other.grad), name


def test_changed_settings_apply_to_a_resumed_optimizer(tmp_path: Path) -> None:
    first = make_step_trainer(tmp_path / "first", warmup_steps=0, weight_decay=0.1)
    first.step(manifest(row(Kind.POLICY, 1.0)))
    first.save(tmp_path)

    def resumed(**settings: float) -> SourceGRPOTrainer:
        step_trainer = make_step_trainer(tmp_path / "resumed", warmup_steps=0, **settings)
        step_trainer.policy.load_state_dict(first.policy.state_dict())
        step_trainer.load(tmp_path)
        return step_trainer

    same, changed = resumed(weight_decay=0.1), resumed(weight_decay=0.3, learning_rate=0.5)
    before = weights(same)
    groups = changed.optimizer.param_groups
    assert {(group["lr"], group["initial_lr"]) for group in groups} == {(0.5, 0.5)}
    assert {group["weight_decay"] for group in groups} == {0.3, 0.0}
    assert same.optimizer.state_dict()["param_groups"] == first.optimizer.state_dict()["param_groups"]
    following = replace(manifest(row(Kind.POLICY, 1.0)), step=1)
    rates = [step_trainer.step(following).learning_rate for step_trainer in (first, same, changed)]
    assert rates == [0.01, 0.01, 0.5]
    assert changed.step(replace(following, step=2)).learning_rate == 0.5
    assert all(torch.equal(value, weights(first)[name]) for name, value in weights(same).items())
    moved = [sum((weights(each)[name] - before[name]).abs().sum() for name in before) for each in (same, changed)]
    assert moved[1] > 10 * moved[0]


def make_group(rollouts: Sequence[tuple[Kind, float]]) -> Group:
    prompt = Prompt(Question("t", "train", 0, 0, "q", {}, "d", "k"), "answer", (), (5, 6))
    return Group(
        prompt,
        tuple(Rollout(kind, kind.value, "x", (7, 8), False) for kind, _ in rollouts),
        tuple(Score(outcome, True, "") for _, outcome in rollouts),
    )


def test_rows_of_several_sources_each_get_their_own_weights() -> None:
    group = make_group(
        [(Kind.POLICY, 1.0), (Kind.POLICY, 0.0), (Kind.TEACHER, 1.0), (Kind.TEACHER, 0.0), (Kind.RELAY, 1.0)]
    )
    rows = build_rows([group], SETTINGS, {})
    assert [(r.kind, round(r.advantage, 2)) for r in rows] == [
        (Kind.POLICY, 0.71),
        (Kind.POLICY, -0.71),
        (Kind.TEACHER, 0.5),
    ]


def test_luffy_gives_own_rows_the_joint_baseline() -> None:
    group = make_group([(Kind.POLICY, 0.0), (Kind.POLICY, 0.0), (Kind.POLICY, 0.0), (Kind.TEACHER, 1.0)])
    rows = build_rows([group], TrainConfig(teacher_loss="luffy"), {})
    assert [round(r.advantage, 2) for r in rows] == [-0.5, -0.5, -0.5, 1.5]


def test_manifests_survive_packing() -> None:
    rows = (replace(row(Kind.POLICY, 0.25), behaviour_logps=(-1.0, -2.0, -0.5)), replace(row(Kind.PEER, 1.5), lag=None))
    original = manifest(*rows)
    assert Manifest.unpack(original.pack()) == original
