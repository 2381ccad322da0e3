"""A step over several sources, and what it leaves unchanged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hivemind_exp.journal.records import Manifest, TrainingRow
from hivemind_exp.losses.registry import choose_losses
from hivemind_exp.models.tiny import build_model
from hivemind_exp.rollouts.types import Group, Prompt, Rollout, Turn
from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.base import Question, Score
from hivemind_exp.train_settings import TrainConfig
from hivemind_exp.trainer.advantages import build_rows, count_tokens
from hivemind_exp.trainer.gradient_meter import GradientMeter
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer, StepAbandoned, token_scales
from tests.support.step_trainers import TOKENIZER, make_step_trainer

SETTINGS = TrainConfig()


def row(kind: Kind, advantage: float, *, length: int = 3, group: int = 0) -> TrainingRow:
    return TrainingRow(kind, kind.value, "t", group, (10, 11), tuple(range(20, 20 + length)), "", 1.0, advantage, 0)


def manifest(*rows: TrainingRow, micro_batch: int = 8) -> Manifest:
    return Manifest(0, 0, 7, micro_batch, rows)


def weights(step_trainer: SourceGRPOTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in step_trainer.policy.state_dict().items()}


def drawn(*rows: TrainingRow, own: int, external: int, micro_batch: int = 8) -> Manifest:
    """Return a manifest of rows that remain of this many tokens."""
    return replace(manifest(*rows, micro_batch=micro_batch), tokens=(own, external))


def test_older_manifests_are_replayed_with_a_denominator_per_source(tmp_path: Path) -> None:
    step_trainer = make_step_trainer(tmp_path, off_policy_weight=0.5)
    rows = [row(Kind.POLICY, 1.0, length=2), row(Kind.POLICY, -0.5, length=4), row(Kind.TEACHER, 0.8, length=30)]
    result = step_trainer.step(manifest(*rows))
    # ratios are 1: own (-2·1 + 4·0.5) / 6, external 0.5 · (-30·0.8) / 30
    assert result.loss == pytest.approx(0.0 - 0.4, abs=1e-6)
    assert result.tokens == 36
    assert set(result.by_kind) == {Kind.POLICY, Kind.TEACHER}
    assert result.by_kind[Kind.TEACHER]["source_grad_norm"] is None


def test_all_tokens_share_one_denominator(tmp_path: Path) -> None:
    step_trainer = make_step_trainer(tmp_path, off_policy_weight=0.5)
    rows = [row(Kind.POLICY, 1.0, length=2), row(Kind.POLICY, -0.5, length=6), row(Kind.TEACHER, 0.8, length=3)]
    result = step_trainer.step(drawn(*rows, own=10, external=6))
    # ratios are 1: own -2·1 + 6·0.5, external 0.5 · -3·0.8
    assert result.loss == pytest.approx((1.0 - 1.2) / 16, abs=1e-6)


def test_long_external_text_weighs_no_more_than_all_own_tokens_unless_published_so(tmp_path: Path) -> None:
    rows = [row(Kind.POLICY, 0.0, length=4), row(Kind.TEACHER, 1.0, length=40)]
    gated, luffy = (
        make_step_trainer(tmp_path / name, teacher_loss=name).step(drawn(*rows, own=4, external=40)).loss
        for name in ("gated", "luffy")
    )
    assert gated == pytest.approx(-4 / 44, abs=1e-6)
    plain = choose_losses(TrainConfig(teacher_loss="luffy"))
    assert token_scales(drawn(*rows, own=4, external=40), plain, 1.0) == pytest.approx(
        {Kind.POLICY: 1 / 44, Kind.TEACHER: 1 / 44}
    )
    assert luffy != gated


OUTCOMES = ([1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0] * 8, [1.0] * 8)


@pytest.mark.parametrize(("peer_loss", "expected"), [("positive", 1 / 2.475), ("sapo", 1.0)])
def test_one_surviving_peer_row_weighs_no_more_than_an_own_correct_row(
    tmp_path: Path, peer_loss: str, expected: float
) -> None:
    """Eight own groups, most of them tied, and one of a peer. The old denominators counted the tied rows only on the
    own side, so that the peer's row weighed 64 own ones under "positive", and 8 under "sapo"."""
    own = [make_group([(Kind.POLICY, outcome) for outcome in OUTCOMES[min(n, 1 + n % 2)]]) for n in range(8)]
    theirs = make_group([(Kind.PEER, outcome) for outcome in OUTCOMES[0]])
    train = TrainConfig(peer_loss=peer_loss)  # type: ignore[arg-type]
    rows = build_rows([*own, theirs], train, {})
    scales = token_scales(
        Manifest(0, 0, 7, 8, tuple(rows), tokens=count_tokens([*own, theirs], train)), choose_losses(train), 1.0
    )
    weight = {kind: max(r.advantage for r in rows if r.kind is kind) * scales[kind] for kind in scales}
    assert weight[Kind.PEER] / weight[Kind.POLICY] == pytest.approx(expected, rel=1e-3)


def test_the_gradient_is_measured_by_source_before_clipping(tmp_path: Path) -> None:
    own = [row(Kind.POLICY, 1.0, length=n) for n in (2, 5, 9)]
    theirs, taught = row(Kind.PEER, 0.5, length=7), row(Kind.TEACHER, 1.0, length=4)

    def norms(*rows: TrainingRow) -> dict[str, float | None]:
        result = make_step_trainer(tmp_path, max_grad_norm=1e-3).step(drawn(*rows, own=16, external=11, micro_batch=2))
        return {**{kind: each["source_grad_norm"] for kind, each in result.by_kind.items()}, "all": result.grad_norm}

    mixed = norms(own[0], theirs, own[1], taught, own[2])
    for kind, rows in {Kind.POLICY: own, Kind.PEER: [theirs], Kind.TEACHER: [taught]}.items():
        alone = norms(*rows)
        assert mixed[kind] == pytest.approx(alone[kind], rel=1e-4)
        assert alone[kind] == pytest.approx(alone["all"])


def test_a_sample_measures_a_gradient_of_many_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hivemind_exp.trainer.gradient_meter.MOST_SAMPLED", 1000)
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((300, 101), (7,), (1,))]
    parameters[0].grad, parameters[2].grad = torch.randn(300, 101), torch.randn(1)
    meter = GradientMeter(parameters)
    assert float(meter.added_norm()) == pytest.approx(float(parameters[0].grad.norm()), rel=0.1)
    parameters[0].grad += 1.0
    assert float(meter.added_norm()) == pytest.approx(math.sqrt(300 * 101), rel=1e-3)


@pytest.mark.parametrize(
    ("model", "train", "expected"),
    [
        ({}, {"learning_rate": 1e-6}, 1e-5),
        ({"lora": True}, {"learning_rate": 1e-6}, 1e-4),
        ({}, {"learning_rate": 1e-3}, 1e-3),
        ({}, {"learning_rate": 1e-3, "teacher_learning_rate": 1e-7}, 1e-7),
    ],
)
def test_a_step_of_a_teachers_rows_alone_has_its_own_learning_rate(
    tmp_path: Path, model: dict[str, object], train: dict[str, float], expected: float
) -> None:
    step_trainer = make_step_trainer(tmp_path, model=model, **train)
    own, taught, hinted = row(Kind.POLICY, 1.0), row(Kind.TEACHER, 1.0), row(Kind.HINTED, 1.0)
    steps = [
        drawn(taught, own=0, external=3),
        drawn(taught, own, own=3, external=3),
        drawn(taught, replace(own, advantage=0.0), own=3, external=3),
        manifest(taught),  # of an older version
        drawn(own, own=3, external=0),
        drawn(hinted, own=3, external=3),
        drawn(hinted, own, own=3, external=3),
    ]
    rates = [step_trainer.step(replace(each, step=n)).learning_rate for n, each in enumerate(steps)]
    usual = train["learning_rate"]
    assert rates == pytest.approx([expected, usual, expected, usual, usual, expected, usual])


def test_the_likelihood_of_a_teachers_text_is_reported(tmp_path: Path) -> None:
    step_trainer = make_step_trainer(tmp_path)
    rows = [row(Kind.TEACHER, 1.0, length=4), row(Kind.TEACHER, 0.5, length=2)]
    logps = step_trainer.log_probabilities(rows)
    result = step_trainer.step(drawn(*rows, row(Kind.POLICY, 1.0), own=3, external=6))
    assert result.by_kind[Kind.TEACHER]["nll"] == pytest.approx(-sum(map(sum, logps)) / 6, rel=1e-4)
    assert result.by_kind[Kind.POLICY]["nll"] is None


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


def test_all_completions_count_as_tokens_learned_from_or_not() -> None:
    group = make_group([(Kind.POLICY, 1.0), (Kind.POLICY, 1.0), (Kind.TEACHER, 0.0), (Kind.PEER, 0.0)])
    assert count_tokens([group, make_group([(Kind.PEER, 1.0)])], SETTINGS) == (4, 6)


def test_manifests_survive_packing() -> None:
    rows = (replace(row(Kind.POLICY, 0.25), behaviour_logps=(-1.0, -2.0, -0.5)), replace(row(Kind.PEER, 1.5), lag=None))
    original = manifest(*rows)
    assert Manifest.unpack(original.pack()) == original
    counted = replace(original, floor=-0.5, tokens=(30, 12))
    assert Manifest.unpack(counted.pack()) == counted


def test_a_conversation_teaches_what_its_turns_teach_and_nothing_that_the_environment_said(tmp_path: Path) -> None:
    prompt, said, heard, again = (10, 11), (20, 21, 1), (30, 31, 32), (22, 1)
    whole = TrainingRow(Kind.POLICY, "local", "t", 0, prompt, (*said, *heard, *again), "", 1.0, 0.8, 0, heard=((3, 6),))
    turns = [
        TrainingRow(Kind.POLICY, "local", "t", 0, prompt, said, "", 1.0, 0.8, 0),
        TrainingRow(Kind.POLICY, "local", "t", 0, (*prompt, *said, *heard), again, "", 1.0, 0.8, 0),
    ]
    one, several = make_step_trainer(tmp_path / "one"), make_step_trainer(tmp_path / "several")
    result = one.step(drawn(whole, own=5, external=0))
    assert result.tokens == several.step(drawn(*turns, own=5, external=0)).tokens == 5
    for (name, part), other in zip(one.policy.named_parameters(), several.policy.parameters(), strict=True):
        assert torch.allclose(part.grad, other.grad, atol=1e-6), name  # AdamW would make much of a rounding error
    careless = make_step_trainer(tmp_path / "careless")
    careless.step(drawn(replace(whole, heard=()), own=5, external=0))
    assert any(
        not torch.allclose(part.grad, other.grad, atol=1e-4)
        for part, other in zip(one.policy.parameters(), careless.policy.parameters(), strict=True)
    )


def test_the_tokens_of_a_step_are_those_that_the_model_wrote() -> None:
    question = Question("t", "train", 0, 0, "q", {}, "d", "k")
    turns = (Turn("assistant", "a", 3), Turn("user", "b", 4), Turn("assistant", "c", 2), Turn("user", "unseen", 0))
    talk = Rollout(
        Kind.POLICY, "local", "text", tuple(range(9)), False, turns=turns, score=Score(1.0, False, "correct")
    )
    plain = Rollout(Kind.POLICY, "local", "text", (1, 2), False)
    scores = (Score(1.0, False, "correct"), Score(0.0, False, "wrong"))
    group = Group(Prompt(question, "answer", (), (5,)), (talk, plain), scores)
    assert talk.heard == ((3, 7),)
    assert count_tokens([group], SETTINGS) == (7, 0)
    first, second = build_rows([group], SETTINGS, {})
    assert (first.heard, first.sampled) == (((3, 7),), 5)
    assert (second.heard, second.sampled) == ((), 2)
    kept = manifest(first, second)
    assert Manifest.unpack(kept.pack()) == kept
    older = manifest(second)
    assert older.pack()[:2] == manifest(row(Kind.POLICY, 1.0)).pack()[:2] != kept.pack()[:2]  # older versions read it
    with pytest.raises(ValueError, match="turns of 9 tokens for 8 tokens"):
        replace(talk, ids=tuple(range(8)))
