"""The arms of ``benchmarks.swarm_learning``, and what their results look like as a table and as curves."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.offload_learning import pyplot

GROUP_SIZE, BATCH = 8, 8


@dataclass(frozen=True, slots=True)
class Arm:
    """One variant of sharing."""

    local: int
    loss: str = "positive"
    unequal: bool = False
    poisoners: int = 0
    filtered: bool = True
    refill: int = 0
    """Extra questions that a round may ask in place of groups that tie."""

    @property
    def external(self) -> int:
        return BATCH - self.local

    @property
    def name(self) -> str:
        parts = [f"{self.local}/{self.external}"]
        if self.external:
            parts.append(self.loss)
        parts += ["poisoner"] * (self.poisoners > 0) + ["unfiltered"] * (not self.filtered)
        return " ".join(parts)


EQUAL = (*(Arm(local) for local in (8, 6, 4, 2)), Arm(4, "sapo"), Arm(2, "sapo"), Arm(4, "f_tis"))
ARMS = (
    *EQUAL,
    *(replace(arm, unequal=True) for arm in EQUAL),
    Arm(4, unequal=True, filtered=False),
    *(Arm(4, loss, poisoners=1, filtered=filtered) for loss in ("positive", "sapo") for filtered in (True, False)),
)


@dataclass(slots=True)
class Curve:
    """The results of one arm and seed."""

    reward: list[float] = field(default_factory=list)
    """Each round's reward, averaged over the nodes."""
    rounds: list[int] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    """Accuracy at each evaluation, averaged over the nodes."""
    strong: float = 0.0
    """Final accuracy of the nodes that started half-way."""
    weak: float | None = None
    """Final accuracy of the nodes that started cold."""
    adverts: float = 0.0
    """Share of the nodes' own completions in the last tenth of the rounds that contain the advertisement."""
    taken: float = 0.0
    """Mean number of peers' groups in a batch."""
    filtered: float = 0.0
    """Share of peers' rows that the filter left out."""
    cpu: float = 0.0
    """CPU seconds per node."""

    @property
    def cumulative(self) -> float:
        return sum(self.reward)

    def until(self, samples: int, local: int) -> float:
        """Return the last accuracy measured before a node sampled more than ``samples`` completions itself."""
        known = zip(self.rounds, self.accuracy, strict=True)
        return [seen for round_, seen in known if round_ * local * GROUP_SIZE <= samples][-1]


HEAD = (
    "  seed  nodes    arm                            sum of rewards  accuracy  at equal  strong   weak  adverts  "
    "groups  filtered  CPU s"
)


def row(seed: str, arm: Arm, curve: Curve, rounds: int) -> str:
    """Return a line of the table."""
    equal = curve.until(2 * GROUP_SIZE * rounds, arm.local)
    weak = "-" if curve.weak is None else f"{curve.weak:.3f}"
    adverts = f"{curve.adverts:.3f}" if arm.poisoners else "-"
    return (
        f"{seed:>6}  {'unequal' if arm.unequal else 'equal':7}  {arm.name:29}  {curve.cumulative:14.2f}  "
        f"{curve.accuracy[-1]:8.3f}  {equal:8.3f}  {curve.strong:6.3f}  {weak:>5}  {adverts:>7}  {curve.taken:6.2f}  "
        f"{curve.filtered:8.3f}  {curve.cpu:5.1f}"
    )


def median(curves: Sequence[Curve]) -> Curve:
    """Return the median of each value over the seeds."""

    def over(name: str) -> list[float]:
        return [statistics.median(values) for values in zip(*(getattr(curve, name) for curve in curves), strict=True)]

    single = {
        name: statistics.median(getattr(curve, name) for curve in curves)
        for name in ("strong", "adverts", "taken", "filtered", "cpu")
    }
    weak = [curve.weak for curve in curves if curve.weak is not None]
    return Curve(
        over("reward"), curves[0].rounds, over("accuracy"), weak=statistics.median(weak) if weak else None, **single
    )


COLOURS = {8: "#000000", 6: "#0072B2", 4: "#009E73", 2: "#D55E00"}
"""Colors that color-blind people can distinguish (Okabe and Ito)."""
DASHES: dict[str, Any] = {"positive": "-", "sapo": (0, (4, 2)), "f_tis": (0, (1, 1.5))}


def draw(curves: Mapping[Arm, Sequence[Curve]], file: Path) -> None:
    """Draw medians of the summed rewards by round and of accuracy by own completions, for equal and unequal nodes."""
    plt = pyplot()
    figure, table = plt.subplots(2, 2, figsize=(14, 9), layout="constrained")
    for line, unequal in zip(table, (False, True), strict=True):
        by_round, by_sample = line
        for arm, found in curves.items():
            if arm.unequal is not unequal or arm.poisoners or not arm.filtered:
                continue
            curve = median(found)
            look = {"color": COLOURS[arm.local], "linestyle": DASHES[arm.loss], "linewidth": 1.8}
            sums = [sum(curve.reward[: n + 1]) for n in range(len(curve.reward))]
            by_round.plot(range(1, len(sums) + 1), sums, **look, label=None if unequal else arm.name)
            by_sample.plot([n * arm.local * GROUP_SIZE for n in curve.rounds], curve.accuracy, **look)
        kind = "half of the nodes start cold" if unequal else "all nodes start half-way"
        by_round.set(
            xlabel="round", ylabel="sum of rewards, mean over nodes", title=f"by round, as in the paper; {kind}"
        )
        by_sample.set(xlabel="completions sampled by the node itself", ylabel="accuracy, greedy, held-out questions")
        by_sample.set(title=f"by local compute; {kind}", ylim=(-0.02, 1.02))
        for axes in line:
            axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False, handlelength=4)
    figure.suptitle("What tiny nodes learn from each other, by local/external groups in a batch of 8 and by loss")
    figure.savefig(file, dpi=110)
