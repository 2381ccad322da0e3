"""The positions of a round's questions."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest

from hivemind_exp.tasks.mixture import USUAL_GROUPS
from hivemind_exp.tasks.question_positions import QuestionPositions
from hivemind_exp.tasks.seed_sequence import Sequence64

SIZE = 500
FIXED: dict[str, Any] = {"size": SIZE, "heldout_size": 0}
MADE: dict[str, Any] = {"size": None, "heldout_size": 0}


def positions(stride: int = USUAL_GROUPS, *, shared: bool, weights: tuple[float, ...] = (1.0,)) -> QuestionPositions:
    labels = [f"set {number}" for number in range(len(weights))]
    train, held = Sequence64(b"c", "train"), Sequence64(b"c", "heldout", b"s")
    return QuestionPositions(labels, weights, stride, train, held, by_index=False, shared=shared)


def asked(made: QuestionPositions, facts: list[dict[str, Any]], round_: int, count: int) -> list[tuple[int, int, int]]:
    return list(islice(made.of_round(facts, "train", round_), count))


@pytest.mark.parametrize("weights", [(1.0,), (3.0, 1.0), (1.0, 1.0, 2.0)])
def test_in_a_swarm_rounds_of_the_usual_length_are_as_they_always_were(weights: tuple[float, ...]) -> None:
    facts = [FIXED if number != 1 else MADE for number in range(len(weights))]
    before, now = positions(shared=False, weights=weights), positions(shared=True, weights=weights)
    for round_ in (0, 1, 90):
        assert asked(now, facts, round_, USUAL_GROUPS) == asked(before, facts, round_, USUAL_GROUPS)


def test_in_a_swarm_a_long_round_asks_no_question_twice_and_none_of_the_next_rounds() -> None:
    made = positions(shared=True)
    rounds = [[seed for _, _, seed in asked(made, [FIXED], round_, 4 * USUAL_GROUPS)] for round_ in range(4)]
    together = [seed for each in rounds for seed in each]
    assert len(set(together)) == len(together)
    assert len({seed for round_ in range(63) for *_, seed in asked(made, [FIXED], round_, 32)}) == SIZE


def test_alone_a_long_round_uses_up_as_many_positions() -> None:
    made = positions(32, shared=False)
    seen = [seed for round_ in range(SIZE // 32) for *_, seed in asked(made, [FIXED], round_, 32)]
    assert len(set(seen)) == len(seen)
