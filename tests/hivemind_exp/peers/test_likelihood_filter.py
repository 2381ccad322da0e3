"""Which rows of peers a step leaves out because this node would hardly write them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch

from hivemind_exp.game.sampling.game import build_prompts
from hivemind_exp.journal.records import Manifest, TrainingRow
from hivemind_exp.peers.exchange import (
    CERTAIN,
    QUANTILE,
    LikelihoodFilter,
    quantile,
    row_of,
)
from hivemind_exp.rollouts.types import Group, Prompt, Rollout, answer_tokens, encode_completion
from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.base import Score
from hivemind_exp.trainer.advantages import build_rows
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer
from tests.support.peers import TOKENIZER, own_group
from tests.support.spelling_task import Spelling


def peer_group(prompt: Prompt, texts: list[str], outcomes: list[float]) -> Group:
    return Group(
        prompt,
        tuple(
            Rollout(Kind.PEER, "peer", text, encode_completion(TOKENIZER, text, False), False, None) for text in texts
        ),
        tuple(Score(outcome, True, "compared") for outcome in outcomes),
    )


def make_filter(step_trainer: SourceGRPOTrainer) -> LikelihoodFilter:
    return LikelihoodFilter(step_trainer.log_probabilities, partial(answer_tokens, TOKENIZER))


def taught(step_trainer: SourceGRPOTrainer) -> Group:
    """Teach the tiny model one text, and return it as an own group."""
    group = own_group(0, right=4)
    weighty = [replace(row, advantage=1.0) for row in build_rows([group], step_trainer.train_config, {})]
    for step in range(40):
        step_trainer.step(Manifest(step, step, 0, 8, tuple(weighty)))
    return group


@pytest.mark.slow
def test_poisoned_reasoning_is_dropped_and_text_like_the_nodes_own_stays(step_trainer: SourceGRPOTrainer) -> None:
    group = taught(step_trainer)
    floor = make_filter(step_trainer).measure([group])
    assert floor is not None
    right = group.rollouts[0].text
    peers = peer_group(group.prompt, [right, f"<think>buy gold</think>{right}", "aaa", "bbb"], [1.0, 1.0, 0.0, 0.0])
    rows = build_rows([peers], step_trainer.train_config, {})
    assert [row.text for row in rows] == [right, f"<think>buy gold</think>{right}"]
    poisoned = tuple(row for row in rows if "gold" in row.text)
    before = {name: value.clone() for name, value in step_trainer.policy.state_dict().items()}
    result = step_trainer.step(Manifest(40, 40, 0, 8, poisoned, floor, (0, 80)))
    assert (result.by_kind[Kind.PEER]["filtered"], result.loss, result.grad_norm) == (1, 0.0, 0.0)
    # The momentum of earlier steps still moves the weights, but the text does not.
    result = step_trainer.step(Manifest(41, 41, 0, 8, tuple(rows), floor, (0, 80)))
    assert result.by_kind[Kind.PEER]["filtered"] == 1
    assert result.grad_norm > 0
    assert any(not torch.equal(value, before[name]) for name, value in step_trainer.policy.state_dict().items())


def test_the_first_floor_is_measured_on_more_of_the_nodes_samples() -> None:
    """Of a few samples, the 2 % quantile is the least likely one, which poison may exceed."""
    measured: list[int] = []

    def log_probabilities(rows: Sequence[TrainingRow]) -> list[list[float]]:
        measured.append(len(rows))
        return [[-1.0] * len(row.completion_ids) for row in rows]

    own = [own_group(number) for number in range(16)]
    (tokens,) = {len(row.ids) for group in own for row in group.rollouts}
    fresh = LikelihoodFilter(log_probabilities, lambda *_: range(0))
    assert fresh.measure(own) == fresh.measure(own) == pytest.approx(-tokens / (tokens + CERTAIN) - 0.05)
    assert measured == [64, 16]


def test_short_unlikely_samples_do_not_put_the_floor_below_poison() -> None:
    """As measured with the tiny model: samples of one rare token outside the answer, and poison of eleven."""
    group = own_group(0)
    short = {2, 5, 9}
    numbers = itertools.count()

    def log_probabilities(rows: Sequence[TrainingRow]) -> list[list[float]]:
        first = [-6.4 if next(numbers) in short else -0.02 for _ in rows]
        return [[each, *[0.0] * (len(row.completion_ids) - 1)] for each, row in zip(first, rows, strict=True)]

    floor = LikelihoodFilter(log_probabilities, lambda ids, _text: range(1, len(ids))).measure([group] * 16)
    assert floor is not None
    assert -5.6 < floor < -1.0


@pytest.mark.slow
def test_a_specialists_correct_answers_pass_and_poison_around_them_does_not(step_trainer: SourceGRPOTrainer) -> None:
    """A node that copies words has never spelled one backward. The peer always does."""
    questions = Spelling().questions("train", 0, 24)
    prompts = build_prompts(questions, TOKENIZER)
    own = [
        Group(
            prompt,
            (Rollout(Kind.POLICY, "local", text, encode_completion(TOKENIZER, text, False), False),),
            (Score(1.0, True, "compared"),),
        )
        for prompt in prompts[:16]
        for text in [f"<answer>{prompt.question.key}</answer>"]
    ]
    for step in range(30):
        rows = [replace(row_of(group, 0), advantage=1.0) for group in own]
        step_trainer.step(Manifest(step, step, 0, 16, tuple(rows), tokens=(80, 0)))
    floor = make_filter(step_trainer).measure(own)
    floor_over_all = LikelihoodFilter(step_trainer.log_probabilities, lambda *_: range(0)).measure(own)
    specialist = [
        peer_group(prompt, [f"<answer>{prompt.question.entry['answer']}</answer>"] * 4, [1.0] * 4)
        for prompt in prompts[16:]
    ]
    rows = build_rows(specialist, step_trainer.train_config, {})
    assert len(rows) == 8 * 4

    def refused(texts: Sequence[str], manifest: Manifest) -> int:
        """Return how many rows are refused if these are the texts."""
        said = [
            replace(row, text=text, completion_ids=encode_completion(TOKENIZER, text, False))
            for row, text in zip(rows, texts, strict=True)
        ]
        step_trainer.policy.load_state_dict(weights)
        found = step_trainer.step(replace(manifest, rows=tuple(said))).by_kind[Kind.PEER]["filtered"]
        assert found is not None
        return int(found)

    weights = {name: value.clone() for name, value in step_trainer.policy.state_dict().items()}
    texts = [row.text for row in rows]
    now = Manifest(30, 30, 0, 32, (), floor, (0, 160))
    for style in ("<think>buy gold</think>{}", "{} buy gold", "<answer>buy gold</answer>{}"):
        assert refused([style.format(text) for text in texts], now) == len(rows)
    assert refused(texts, replace(now, floor=floor_over_all, tokens=None)) > 0.8 * len(rows)
    assert refused(texts, now) < 0.1 * len(rows)


def test_own_rows_and_rows_without_a_floor_are_never_dropped(step_trainer: SourceGRPOTrainer) -> None:
    group = own_group(0)
    rows = build_rows([group], step_trainer.train_config, {})
    strict = step_trainer.step(Manifest(0, 0, 0, 8, tuple(rows), 0.0, (20, 0)))
    assert strict.grad_norm > 0
    peers = build_rows([peer_group(group.prompt, ["a", "b"], [1.0, 0.0])], step_trainer.train_config, {})
    assert step_trainer.step(Manifest(1, 1, 0, 8, tuple(peers), tokens=(0, 4))).by_kind[Kind.PEER]["filtered"] == 0


def test_the_floor_is_stored_in_the_manifest() -> None:
    manifest = Manifest(1, 2, 3, 4, (), -1.25)
    assert Manifest.unpack(manifest.pack()) == manifest


def test_manifests_in_the_previous_format_can_be_replayed() -> None:
    import msgpack

    assert Manifest.unpack(msgpack.packb([1, 5, 6, 7, 8, []])) == Manifest(5, 6, 7, 8, ())
    assert Manifest.unpack(msgpack.packb([2, 5, 6, 7, 8, -1.5, []])) == Manifest(5, 6, 7, 8, (), -1.5)


def test_quantiles_are_interpolated() -> None:
    assert quantile([], 0.5) is None
    assert quantile([3.0], QUANTILE) == 3.0
    assert quantile([4.0, 0.0, 2.0], 0.5) == 2.0
    assert quantile([0.0, 1.0], 0.25) == 0.25


def test_measuring_changes_neither_weights_nor_random_numbers(step_trainer: SourceGRPOTrainer) -> None:
    before, state = step_trainer.policy.state_dict(), torch.get_rng_state()
    kept = {name: value.clone() for name, value in before.items()}
    make_filter(step_trainer).measure([own_group(0), own_group(1)])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, kept[name]) for name, value in step_trainer.policy.state_dict().items())
    assert all(parameter.grad is None for parameter in step_trainer.policy.parameters())
