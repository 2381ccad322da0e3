"""On-policy distillation: the divergence that its steps follow, and what they leave unchanged."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest
import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from hivemind_exp.journal.records import Manifest, TrainingRow, contributions
from hivemind_exp.losses.base import TokenRows
from hivemind_exp.losses.distillation import LARGEST, distil, token_advantages
from hivemind_exp.losses.policy import score_tokens
from hivemind_exp.source_kinds import Kind
from hivemind_exp.train_settings import TrainConfig
from tests.support.step_trainers import make_step_trainer

NAN = math.nan


def rows(logps: Tensor, teacher: list[list[float]] | None, advantages: list[float] | None = None) -> TokenRows:
    known = None if teacher is None else torch.tensor(teacher)
    weights = torch.tensor(advantages or [0.0] * len(logps))
    return TokenRows(logps, weights, torch.ones_like(logps), teacher_logps=known)


def test_the_expected_gradient_is_that_of_the_reverse_kl_divergence() -> None:
    """For one token, the expectation over all that the student may sample can be computed."""
    teacher = log_softmax(torch.tensor([0.3, -1.0, 1.2, 0.1]), 0)
    logits = torch.tensor([1.0, 0.2, -0.5, 0.0], requires_grad=True)
    student = log_softmax(logits, 0)
    (student.exp() * (student - teacher)).sum().backward()
    exact = logits.grad
    logits = torch.tensor([1.0, 0.2, -0.5, 0.0], requires_grad=True)
    student = log_softmax(logits, 0)
    losses = distil(
        TokenRows(student.unsqueeze(1), torch.zeros(4), torch.ones(4, 1), teacher_logps=teacher.unsqueeze(1))
    )
    (losses.squeeze(1) * student.exp().detach()).sum().backward()
    assert torch.allclose(logits.grad, exact, atol=1e-6)  # type: ignore[arg-type]


def test_it_is_added_to_the_advantage_of_the_reward() -> None:
    logps = torch.tensor([[-1.0, -2.0], [-0.5, -0.1]], requires_grad=True)
    both = score_tokens(rows(logps, [[-0.5, -3.0], [NAN, NAN]], [1.0, -1.0]), TrainConfig())
    # ratios are 1: -(A + log π_teacher - log π), and the second row has only A
    assert torch.allclose(both.loss, torch.tensor([[-1.5, 0.0], [1.0, 1.0]]))
    both.loss.sum().backward()
    assert torch.allclose(logps.grad, torch.tensor([[-1.5, 0.0], [1.0, 1.0]]))  # type: ignore[arg-type]


def test_without_scores_the_loss_is_exactly_the_old_one() -> None:
    logps = torch.tensor([[-1.0, -2.0]])
    assert torch.equal(
        score_tokens(rows(logps, None, [1.0]), TrainConfig()).loss,
        score_tokens(rows(logps, [[NAN, NAN]], [1.0]), TrainConfig()).loss,
    )
    assert torch.equal(distil(rows(logps, None)), torch.zeros(1, 2))


def test_a_token_that_the_teacher_finds_impossible_counts_only_so_much() -> None:
    logps = torch.tensor([[-1.0, -30.0, -1.0]])
    assert token_advantages(logps, torch.tensor([[-9999.0, 0.0, NAN]])).tolist()[0][:2] == [-LARGEST, LARGEST]
    assert torch.isfinite(distil(rows(logps, [[-9999.0, 0.0, NAN]]))).all()


def row(advantage: float, teacher_logps: tuple[float, ...] | None, ids: tuple[int, ...] = (20, 21, 22)) -> TrainingRow:
    teacher = None if teacher_logps is None else "vllm:m"
    about = (Kind.POLICY, "local", "t", 0, (10, 11), ids, "", 0.0, advantage, 0)
    return TrainingRow(*about, teacher=teacher, teacher_logps=teacher_logps)


def manifest(*rows: TrainingRow, micro_batch: int = 8) -> Manifest:
    return Manifest(0, 0, 7, micro_batch, rows, tokens=(sum(len(row.completion_ids) for row in rows), 0))


def test_a_step_learns_from_rows_without_an_advantage(tmp_path: Path) -> None:
    trainer = make_step_trainer(tmp_path)
    scored = manifest(row(0.0, (-0.1, -0.2, -0.3)), row(0.0, None), row(0.0, (-8.0, -9.0), ids=(30, 31)))
    own = trainer.log_probabilities(scored.rows)
    gaps = [
        min(LARGEST, max(-LARGEST, a - b))
        for i, known in ((0, scored.rows[0].teacher_logps), (2, scored.rows[2].teacher_logps))
        for a, b in zip(own[i], known or (), strict=True)
    ]
    result = trainer.step(scored)
    assert (result.rows, result.tokens) == (2, 5)
    assert result.loss == pytest.approx(sum(gaps) / 8, abs=1e-5)  # all eight tokens are in the denominator
    assert result.by_kind[Kind.POLICY]["reverse_kl"] == pytest.approx(sum(gaps) / 5, abs=1e-5)
    assert result.grad_norm > 0


def test_steps_without_scores_report_no_divergence_and_do_not_change(tmp_path: Path) -> None:
    first, second = make_step_trainer(tmp_path / "a"), make_step_trainer(tmp_path / "b")
    plain = manifest(row(1.0, None), row(-1.0, None, ids=(30, 31)))
    result = first.step(plain)
    assert "reverse_kl" not in result.by_kind[Kind.POLICY]
    again = second.step(Manifest.unpack(plain.pack()))
    assert (again.loss, again.grad_norm) == (result.loss, result.grad_norm)


def test_training_moves_the_student_toward_its_teacher(tmp_path: Path) -> None:
    trainer = make_step_trainer(tmp_path, learning_rate=1e-3)
    known = row(0.0, (-0.05, -0.05, -0.05))
    before = sum(trainer.log_probabilities([known])[0])
    for step in range(5):
        trainer.step(replace(manifest(known), step=step))
    assert sum(trainer.log_probabilities([known])[0]) > before


def test_scores_survive_the_journal_to_the_last_bit() -> None:
    scored = manifest(row(0.5, (-0.1, -1 / 3, -9999.0)), row(0.0, None))
    assert Manifest.unpack(scored.pack()) == scored
    assert msgpack.unpackb(scored.pack())[0] == 4


def test_manifests_without_scores_stay_readable_for_older_versions() -> None:
    plain = manifest(row(0.5, None))
    version, *_, packed = msgpack.unpackb(plain.pack(), use_list=False)
    assert version == 3
    assert len(packed[0]) == 11
    assert Manifest.unpack(plain.pack()) == plain
    with pytest.raises(ValueError, match="unknown step manifest format 6; this version reads formats 1 to 5"):
        Manifest.unpack(msgpack.packb([6, 0, 0, 0, 1, None, None, []]))


def test_the_teacher_is_named_as_a_source_of_the_model() -> None:
    (only,) = contributions(manifest(row(0.0, (-0.1, -0.2, -0.3)), row(0.0, None)))
    assert (only.kind, only.source, only.completions, only.tokens) == (Kind.POLICY, "local, scored by vllm:m", 1, 3)
