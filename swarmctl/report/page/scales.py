"""Axes: round ticks, and numbers as short labels."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Format = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis from ``low`` to ``high``, drawn between two coordinates."""

    low: float
    high: float
    begin: float
    """Coordinate of ``low``."""
    end: float
    """Coordinate of ``high``."""

    def __call__(self, value: float) -> float:
        """Return a value's coordinate. Values beyond the ends are drawn at the ends."""
        span = self.high - self.low
        share = 0.0 if not span else min(1.0, max(0.0, (value - self.low) / span))
        return round(self.begin + share * (self.end - self.begin), 2)


def ticks(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """Return at most ``most`` + 1 evenly spaced round numbers from ``low`` to ``high``. ``whole``: no fractions."""
    span = high - low
    if not span or not math.isfinite(span):
        return [low]
    raw = span / most
    scale = 10.0 ** math.floor(math.log10(raw))
    factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    step = next(scale * factor for factor in factors if scale * factor >= raw * (1 - 1e-9))
    if whole:
        step = max(1.0, step)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def domain(values: Sequence[float], *, from_zero: bool = True) -> tuple[float, float]:
    """Return the ends of an axis for ``values``: round numbers, with 0 unless values are negative or it is excluded."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if from_zero and low >= 0:
        low = 0.0
    if low == high:
        high = low + (abs(low) or 1.0)
    marks = ticks(low, high, 4)
    step = marks[1] - marks[0] if len(marks) > 1 else high - low
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def percent(value: float) -> str:
    """Return a share as ``38 %``, with a decimal if it is not whole."""
    shown = 100 * value
    return f"{shown:.0f} %" if abs(shown - round(shown)) < 0.05 else f"{shown:.1f} %"


def plain(value: float) -> str:
    """Return a number with at most three significant digits, and large numbers with k or M."""
    for limit, scale, unit in ((1e9, 1e9, " B"), (1e6, 1e6, " M"), (1e4, 1e3, " k")):
        if abs(value) >= limit:
            return f"{value / scale:.3g}{unit}"
    if abs(value) >= 100 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"
