"""Means over equal spans of rounds, so that a history of any length has few points and needs little memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_SPANS = 160
"""Points of a series. With more rounds, each point stands for more of them."""


@dataclass(slots=True)
class Mean:
    """A weighted mean."""

    total: float = 0.0
    weight: float = 0.0

    def add(self, value: float, weight: float) -> None:
        self.total += value * weight
        self.weight += weight

    @property
    def value(self) -> float | None:
        return self.total / self.weight if self.weight else None


Label = tuple[str, ...]
"""What a series is of, such as a stage and a source."""


class Series:
    """Collects values by round. ``labels``: the names of a label's parts, which become keys of the rows."""

    def __init__(self, *labels: str) -> None:
        self._labels = labels
        self._means: dict[tuple[int, Label], dict[str, Mean]] = {}
        self._sums: dict[tuple[int, Label], dict[str, int]] = {}
        self.span = 1
        """Rounds that a point stands for."""

    def add(
        self,
        round_: int,
        label: Label = (),
        *,
        means: Mapping[str, float | None],
        weight: float = 1.0,
        sums: Mapping[str, int | None] | None = None,
    ) -> None:
        """Add the values of one round, counted from 0. Unknown values, None, are left out."""
        while round_ // self.span >= MOST_SPANS:
            self._widen()
        place = (round_ // self.span, label)
        found = self._means.setdefault(place, {})
        for name, value in means.items():
            if value is not None and weight:
                found.setdefault(name, Mean()).add(value, weight)
        counts = self._sums.setdefault(place, {})
        for name, number in (sums or {}).items():
            if number is not None:
                counts[name] = counts.get(name, 0) + number

    def rows(self, *names: str) -> list[dict[str, Any]]:
        """Return a row for each span and label: its first and last round, counted from 1, and the named values.

        Unknown values are None.
        """
        found = []
        for place in sorted(self._means):
            number, label = place
            row: dict[str, Any] = {"first": number * self.span + 1, "last": (number + 1) * self.span}
            row |= dict(zip(self._labels, label, strict=True))
            for name in names:
                if name in self._sums[place]:
                    row[name] = self._sums[place][name]
                else:
                    mean = self._means[place].get(name)
                    row[name] = None if mean is None or mean.value is None else round(mean.value, 6)
            found.append(row)
        return found

    def names(self, prefix: str) -> list[str]:
        """Return the names of values that begin with ``prefix``, in order of appearance."""
        return list(dict.fromkeys(name for each in self._means.values() for name in each if name.startswith(prefix)))

    def _widen(self) -> None:
        """Let each point stand for twice as many rounds."""
        means, sums = self._means, self._sums
        self._means, self._sums = {}, {}
        self.span *= 2
        for (number, label), values in means.items():
            target = self._means.setdefault((number // 2, label), {})
            for name, mean in values.items():
                target.setdefault(name, Mean()).add(mean.total, 1.0)
                target[name].weight += mean.weight - 1.0
        for (number, label), counts in sums.items():
            totals = self._sums.setdefault((number // 2, label), {})
            for name, value in counts.items():
                totals[name] = totals.get(name, 0) + value
