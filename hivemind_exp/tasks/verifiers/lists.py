"""Answers that are lists, as JSON."""

import json
import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

TOLERANCE = 1e-6


def nesting(text: str, opening: str, closing: str) -> int:
    """Return how deep brackets stand within brackets."""
    return max(accumulate((letter in opening) - (letter in closing) for letter in text), default=0)


def parse_lists(text: str, *, depth: int) -> Any:
    """Return the JSON value that ``text`` is, or None: too deep, not JSON, or with numbers that are not finite."""
    if nesting(text, "[{", "]}") > depth:
        return None
    try:
        return json.loads(text, parse_constant=_not_a_number, parse_int=_short_integer)
    except ValueError:
        return None


def _not_a_number(name: str) -> None:
    raise ValueError(name)


def _short_integer(text: str) -> int:
    if len(text) > 60:
        raise ValueError("too many digits")
    return int(text)


def _strings(value: Any) -> list[list[str]] | None:
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        return None
    return value if all(isinstance(word, str) for row in value for word in row) else None


def groups(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for the same groups of words, in any order within and without."""
    mine = _strings(parse_lists(answer, depth=2))
    if mine is None:
        return 0.0
    return 1.0 if sorted(map(sorted, mine)) == sorted(map(sorted, entry["solution"])) else 0.01


def numbers(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for the same numbers in the same order, as numbers or between quotes."""
    mine = _floats(parse_lists(answer.replace("'", '"'), depth=1))
    right = _floats(parse_lists(entry["answer"].replace("'", '"'), depth=1))
    if mine is None or right is None or len(mine) != len(right):
        return 0.0
    return float(all(abs(left - its) <= TOLERANCE for left, its in zip(mine, right, strict=True)))


def _floats(value: Any) -> list[float] | None:
    if not isinstance(value, list) or not all(isinstance(item, (str, int, float)) for item in value):
        return None
    try:
        found = [float(item) for item in value]
    except ValueError:
        return None
    return found if all(map(math.isfinite, found)) else None
