"""Answers about dates: a day of the week, a number of days, or yes and no."""

import math
from collections.abc import Mapping
from typing import Any

from hivemind_exp.tasks.verifiers.numbers import parse_integer
from hivemind_exp.tasks.verifiers.text import NEARLY, caseless

WEEKDAYS = frozenset({"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"})


def calendar(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for the right day or count; a little for another weekday, or for a count that is nearly right."""
    answer, right = answer.strip(), entry["answer"].strip()
    if entry["task"].startswith("weekday_"):
        if answer == right:
            return 1.0
        return 0.1 if answer in WEEKDAYS else 0.05 if answer.title() in WEEKDAYS else 0.0
    count = parse_integer(right)
    if count is None:
        return caseless(answer, entry)
    mine = parse_integer(answer)
    if mine is None or mine == count:
        return float(mine == count)
    # e^(−5 · 1/600) would count as right, though it is a day off
    return min(NEARLY, math.exp(-5 * min(abs(mine - count) / abs(count), 100))) if count else 0.0
