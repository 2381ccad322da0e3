"""Every loss, on cases small enough to compute by hand."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from hivemind_exp.losses.base import GroupRows, TokenRows
from hivemind_exp.losses.registry import LOSSES, choose_losses
from hivemind_exp.offload.loss_descriptions import TEACHER_LOSS_DESCRIPTIONS
from hivemind_exp.source_kinds import Kind
from hivemind_exp.train_settings import JOINT_LOSSES, TrainConfig

SETTINGS = TrainConfig()


def group(
    outcomes: list[float],
    own: list[float] | None = None,
    *,
    strict: list[bool] | None = None,
    lags: list[int | None] | None = None,
    texts: list[str] | None = None,
    pass_rate: float = 0.0,
) -> GroupRows:
    return GroupRows(
        outcomes=torch.tensor(outcomes),
        strict=torch.tensor(strict or [True] * len(outcomes)),
        lags=tuple(lags or [0] * len(outcomes)),
        texts=tuple(texts or map(str, range(len(outcomes)))),
        own_outcomes=torch.tensor(outcomes if own is None else own),
        pass_rate=pass_rate,
    )


def weights(kind: Kind, rows: GroupRows, settings: TrainConfig = SETTINGS) -> list[float]:
    return [round(value, 4) for value in choose_losses(settings)[kind].weigh(rows, settings).tolist()]


def same(found: list[float], expected: list[float]) -> None:
    assert found == pytest.approx(expected, abs=1e-3, nan_ok=True)


def tokens(
    count: int, advantage: float, behaviour: list[float] | None = None, logp: float = -1.0
) -> tuple[TokenRows, Tensor]:
    """Return a row of ``count`` tokens. ``behaviour``: log π_θ - log π_behav of each token."""
    logps = torch.full((1, count), logp, requires_grad=True)
    behaviour_logps = None if behaviour is None else logps.detach() - torch.tensor([behaviour])
    return TokenRows(logps, torch.tensor([advantage]), torch.ones(1, count), behaviour_logps), logps


def token_loss(kind: Kind, rows: TokenRows, settings: TrainConfig = SETTINGS) -> list[float]:
    return choose_losses(settings)[kind].score_tokens(rows, settings).loss.flatten().tolist()


# policy


def test_policy_advantage_is_the_standard_score_within_the_group() -> None:
    # mean 1/4, unbiased std sqrt(((3/4)^2 + 3 (1/4)^2) / 3) = 1/2
    same(weights(Kind.POLICY, group([1.0, 0.0, 0.0, 0.0])), [1.5, -0.5, -0.5, -0.5])


@pytest.mark.parametrize("outcomes", [[1.0, 1.0, 1.0], [0.0, 0.0], [0.3], [0.5, 0.5 + 1e-8]])
def test_policy_learns_nothing_from_equal_rewards(outcomes: list[float]) -> None:
    assert weights(Kind.POLICY, group(outcomes)) == [0.0] * len(outcomes)


def test_policy_drops_rows_with_large_or_unknown_lag() -> None:
    found = weights(Kind.POLICY, group([1.0, 0.0, 1.0, 0.0], lags=[0, 4, 5, None]))
    assert [math.isnan(value) for value in found] == [False, False, True, True]


def test_policy_served_elsewhere_is_weighted_by_a_truncated_detached_ratio() -> None:
    # π_θ / π_behav = 1, e^0.5, e^3 (truncated at 2) and unknown (1)
    rows, logps = tokens(4, 1.0, behaviour=[0.0, 0.5, 3.0, math.nan])
    result = choose_losses(SETTINGS)[Kind.POLICY].score_tokens(rows, SETTINGS)
    same(result.loss.flatten().tolist(), [-1.0, -math.exp(0.5), -2.0, -1.0])
    assert result.clipped is not None
    assert result.clipped.tolist() == [[False, False, True, False]]
    result.loss.sum().backward()
    assert logps.grad is not None
    same(logps.grad.flatten().tolist(), [-1.0, -math.exp(0.5), -2.0, -1.0])


# policy_text


def test_policy_text_with_unknown_lag_keeps_only_rows_above_the_mean() -> None:
    same(weights(Kind.POLICY_TEXT, group([1.0, 0.0, 0.0, 0.0], lags=[None] * 4)), [1.5, math.nan, math.nan, math.nan])


def test_policy_text_with_known_lag_keeps_both_signs_up_to_max_lag() -> None:
    same(weights(Kind.POLICY_TEXT, group([1.0, 0.0, 0.0, 0.0], lags=[1, 1, 4, 5])), [1.5, -0.5, -0.5, math.nan])


@pytest.mark.parametrize("kind", [Kind.POLICY, Kind.POLICY_TEXT, Kind.TEACHER, Kind.HINTED, Kind.PEER])
def test_rows_without_log_probabilities_use_the_weighted_likelihood(kind: Kind) -> None:
    rows, logps = tokens(2, 0.5)
    result = choose_losses(SETTINGS)[kind].score_tokens(rows, SETTINGS)
    same(result.loss.flatten().tolist(), [-0.5, -0.5])
    result.loss.sum().backward()
    assert logps.grad is not None
    same(logps.grad.flatten().tolist(), [-0.5, -0.5])
    assert result.clipped is None


# teacher


def test_teacher_rows_count_only_if_right_and_strict() -> None:
    found = weights(Kind.TEACHER, group([1.0, 1.0, 0.98, 0.0], own=[0.0, 0.0], strict=[True, False, True, True]))
    same(found, [1.0, math.nan, math.nan, math.nan])


def test_teacher_with_own_rows_is_weighted_by_its_lead_over_their_mean() -> None:
    same(weights(Kind.TEACHER, group([1.0], own=[1.0, 0.0, 0.0, 0.0])), [0.75])
    same(weights(Kind.TEACHER, group([1.0], own=[0.0, 0.0])), [1.0])
    same(weights(Kind.TEACHER, group([1.0], own=[1.0, 1.0])), [0.0])


@pytest.mark.parametrize("rate", [0.0, 0.95, 1.0])
def test_teacher_without_own_rows_is_supervised_learning(rate: float) -> None:
    same(weights(Kind.TEACHER, group([1.0, 0.0, 1.0], own=[], pass_rate=rate)), [1.0, math.nan, 1.0])


def test_at_most_two_different_correct_texts_of_a_teacher_are_learned_from() -> None:
    texts = ["a", "wrong", "a ", "b", "b", "c", "d"]
    found = weights(Kind.TEACHER, group([1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0], own=[], texts=texts))
    same(found, [1.0, math.nan, math.nan, 1.0, math.nan, math.nan, math.nan])


def test_hinted_rows_weigh_like_a_teachers_unless_they_mention_the_hint() -> None:
    texts = ["As the hint says: 7", "Hints help: 7", "7", "8", "seven", "VII"]
    found = weights(Kind.HINTED, group([1.0, 1.0, 1.0, 0.0, 1.0, 1.0], own=[0.0, 0.5], texts=texts))
    same(found, [math.nan, math.nan, 0.75, math.nan, 0.75, math.nan])


def test_luffy_normalizes_the_joint_group_and_shapes_the_policy() -> None:
    settings = TrainConfig(teacher_loss="luffy")
    # joint rewards 0, 0, 0, 1: mean 1/4, std 1/2
    same(weights(Kind.TEACHER, group([1.0], own=[0.0, 0.0, 0.0], strict=[False]), settings), [1.5])
    rows, logps = tokens(1, 2.0, logp=math.log(0.4))
    result = choose_losses(settings)[Kind.TEACHER].score_tokens(rows, settings)
    same(result.loss.flatten().tolist(), [-2.0 * 0.4 / 0.5])
    result.loss.sum().backward()
    assert logps.grad is not None
    # d/dlogπ of -A π/(π+γ) is -A πγ/(π+γ)²
    same(logps.grad.flatten().tolist(), [-2.0 * 0.4 * 0.1 / 0.25])


# peer


@pytest.mark.parametrize("right", [1, 3, 4])
@pytest.mark.parametrize("rate", [0.0, 0.25, 0.9])
def test_a_peers_correct_rows_weigh_as_much_as_this_node_fails_however_good_the_peer(right: int, rate: float) -> None:
    outcomes = [1.0] * right + [0.0] * (4 - right)
    expected = [1.0 - rate] * right + [math.nan] * (4 - right)
    same(weights(Kind.PEER, group(outcomes, own=[], pass_rate=rate)), expected)


def test_a_node_that_never_fails_learns_nothing_from_peers() -> None:
    same(weights(Kind.PEER, group([1.0, 0.0], own=[], pass_rate=1.0)), [math.nan, math.nan])


def test_partly_correct_rows_of_a_peer_count_only_above_their_groups_mean_and_this_nodes_pass_rate() -> None:
    same(weights(Kind.PEER, group([0.5, 0.5, 0.0, 0.0], own=[], pass_rate=0.2)), [0.3, 0.3, math.nan, math.nan])
    same(weights(Kind.PEER, group([0.5, 1.0, 1.0, 1.0], own=[], pass_rate=0.2)), [math.nan, 0.8, 0.8, 0.8])
    same(weights(Kind.PEER, group([0.5, 0.0], own=[], pass_rate=0.6)), [math.nan, math.nan])


@pytest.mark.parametrize("name", ["sapo", "f_tis"])
def test_sapo_and_f_tis_keep_both_signs(name: str) -> None:
    settings = TrainConfig(peer_loss=name)  # type: ignore[arg-type]
    same(weights(Kind.PEER, group([1.0, 0.0, 0.0, 0.0], own=[]), settings), [1.5, -0.5, -0.5, -0.5])


@pytest.mark.parametrize("name", ["sapo", "f_tis"])
def test_sapo_and_f_tis_drop_groups_with_equal_rewards(name: str) -> None:
    settings = TrainConfig(peer_loss=name)  # type: ignore[arg-type]
    same(weights(Kind.PEER, group([1.0, 1.0], own=[]), settings), [math.nan, math.nan])
    assert choose_losses(settings)[Kind.PEER].needs_spread


def test_f_tis_truncates_positive_rows_and_filters_distant_negative_ones() -> None:
    settings = TrainConfig(peer_loss="f_tis")
    far, _ = tokens(2, 1.0, behaviour=[3.0, -1.0])
    same(token_loss(Kind.PEER, far, settings), [-2.0, -math.exp(-1.0)])
    near, _ = tokens(2, -1.0, behaviour=[-0.3, -0.5])
    same(token_loss(Kind.PEER, near, settings), [math.exp(-0.3), math.exp(-0.5)])
    distant, _ = tokens(2, -1.0, behaviour=[-0.9, -0.5])
    same(token_loss(Kind.PEER, distant, settings), [0.0, 0.0])


def test_f_tis_refuses_text_without_log_probabilities() -> None:
    rows, _ = tokens(1, 1.0)
    with pytest.raises(ValueError, match="log-probabilities"):
        token_loss(Kind.PEER, rows, TrainConfig(peer_loss="f_tis"))


# relay


def test_relay_rows_leave_the_batch_and_are_never_trained_on() -> None:
    assert all(math.isnan(value) for value in weights(Kind.RELAY, group([1.0, 0.0])))
    rows, _ = tokens(1, 1.0)
    with pytest.raises(ValueError, match="never trained"):
        token_loss(Kind.RELAY, rows)


def test_every_kind_has_a_loss_and_every_loss_in_the_settings_exists() -> None:
    assert set(choose_losses(SETTINGS)) == set(Kind)
    names = [get_args(TrainConfig.model_fields[field].annotation) for field in ("teacher_loss", "peer_loss")]
    assert {name for each in names for name in each} <= set(LOSSES)
    teacher, _ = names
    assert {name for name in teacher if LOSSES[name].joins_baseline} == JOINT_LOSSES
    described = "describe the new loss in TEACHER_LOSS_DESCRIPTIONS in hivemind_exp/offload/loss_descriptions.py"
    assert set(TEACHER_LOSS_DESCRIPTIONS) == set(teacher), described
    chosen = choose_losses(TrainConfig(teacher_loss="luffy", peer_loss="sapo"))
    assert (chosen[Kind.TEACHER], chosen[Kind.PEER]) == (LOSSES["luffy"], LOSSES["sapo"])


def test_kinds_from_the_nodes_own_weights_have_own_losses() -> None:
    assert {kind for kind, loss in choose_losses(SETTINGS).items() if loss.own} == {k for k in Kind if k.own}
