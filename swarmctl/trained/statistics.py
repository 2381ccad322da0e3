"""Shares of correct answers, with intervals, and whether two models differ."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hivemind_exp.intervals import wilson


@dataclass(frozen=True, slots=True)
class Share:
    """A mean over questions, with its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Share":
        """Return the mean of values in [0, 1], at least one, with Wilson's interval.

        The interval is for values of 0 and 1. Others vary less, so for them it is too wide rather than too narrow.
        """
        mean = sum(values) / len(values)
        low, high = wilson(mean, len(values))
        return cls(mean, low, high)

    def as_json(self) -> dict[str, float]:
        return {"value": round(self.value, 6), "low": round(self.low, 6), "high": round(self.high, 6)}


def pass_at(k: int, answers: int, correct: int) -> float:
    """Return the unbiased estimate of the probability that at least one of ``k`` answers is correct.

    From ``answers`` ≥ k answers with ``correct`` correct ones: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021,
    arXiv 2107.03374, section 2.1).
    """
    return 1.0 - math.comb(answers - correct, k) / math.comb(answers, k)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models on the same questions."""

    better: int
    """Questions that the first model answers correctly more often than the second."""
    worse: int
    equal: int
    p: float
    """Probability of a difference at least this large between equally good models."""

    def as_json(self) -> dict[str, Any]:
        return {"better": self.better, "worse": self.worse, "equal": self.equal, "p": round(self.p, 6)}


def compare(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """Compare the shares of correct answers, question by question, with the exact two-sided sign test.

    With one answer per question, this is the exact test of McNemar (1947).
    """
    better = sum(a > b for a, b in zip(first, second, strict=True))
    worse = sum(a < b for a, b in zip(first, second, strict=True))
    differing = better + worse
    tail = sum(math.comb(differing, n) for n in range(min(better, worse) + 1)) / 2**differing
    return Comparison(better, worse, len(first) - differing, min(1.0, 2 * tail))
