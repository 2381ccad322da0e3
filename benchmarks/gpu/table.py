"""What is printed: medians with their spread, ratios and bars."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.gpu.work import GIB, Cost


def seconds(costs: Sequence[Cost]) -> float:
    return statistics.median(cost.seconds for cost in costs)


def gib(costs: Sequence[Cost]) -> float:
    return max(cost.peak for cost in costs) / GIB


def shown(costs: Sequence[Cost]) -> str:
    """Return the median seconds with the least and the most, and the peak memory."""
    values = [cost.seconds for cost in costs]
    rate = costs[0].tokens and sum(cost.tokens for cost in costs) / sum(values)
    text = f"{seconds(costs):7.3f} s ({min(values):.3f} to {max(values):.3f}), {gib(costs):5.2f} GiB"
    return f"{text}, {rate:,.0f} tokens/s" if rate else text


def beside(name: str, plain: Sequence[Cost], ours: Sequence[Cost]) -> str:
    """Return both with their ratio."""
    return f"{name:34} plain {shown(plain)} | swarmctl {shown(ours)} | {seconds(plain) / seconds(ours):.2f} x"


@dataclass(frozen=True, slots=True)
class Bar:
    """A figure to reach."""

    name: str
    found: float
    wanted: float
    unit: str
    at_least: bool = False

    @property
    def reached(self) -> bool:
        return self.found >= self.wanted if self.at_least else self.found <= self.wanted

    def __str__(self) -> str:
        sign, word = ("≥", "reached") if self.at_least else ("≤", "reached")
        word = word if self.reached else "MISSED"
        return f"{word:8} {self.name:58} {self.found:10,.2f} {self.unit:9} (bar {sign} {self.wanted:,.2f})"
