"""Shares, pass@k and comparisons, against direct computations."""

from __future__ import annotations

import math
from itertools import combinations
from statistics import fmean

import pytest

from swarmctl.terminal.sentences import measured
from swarmctl.trained.statistics import Share, compare, pass_at


@pytest.mark.parametrize("correct", range(7))
@pytest.mark.parametrize("k", [1, 2, 5, 6])
def test_pass_at_k_is_the_share_of_draws_with_a_correct_answer(k: int, correct: int) -> None:
    answers = [True] * correct + [False] * (6 - correct)
    assert pass_at(k, 6, correct) == pytest.approx(fmean(any(drawn) for drawn in combinations(answers, k)))


def test_a_share_has_wilsons_interval() -> None:
    share = Share.of([1.0] * 166 + [0.0] * 34)
    assert share == Share(0.83, pytest.approx(0.7718, abs=1e-4), pytest.approx(0.8757, abs=1e-4))
    assert Share.of([1.0] * 5) == Share(1.0, pytest.approx(0.5655, abs=1e-4), 1.0)
    assert Share.of([0.0] * 5).low == 0.0
    assert measured(0.83, 200) == "83 % (77–88)"
    assert measured(1.0, 5) == "100 % (57–100)"
    assert measured(0.5, None) == "50 %"


def test_a_comparison_is_mcnemars_exact_test() -> None:
    first, second = [1] * 10 + [0] * 2 + [1] * 5, [0] * 10 + [1] * 2 + [1] * 5
    found = compare(first, second)
    assert (found.better, found.worse, found.equal) == (10, 2, 5)
    assert found.p == pytest.approx(2 * sum(math.comb(12, n) for n in range(3)) / 2**12)
    assert compare(second, first).p == found.p
    assert compare([1, 0], [1, 0]).p == 1.0
    assert compare([1, 0], [0, 1]).p == 1.0
    assert compare([0.5, 0.2, 0.3], [0.25, 0.2, 0.4]).equal == 1
