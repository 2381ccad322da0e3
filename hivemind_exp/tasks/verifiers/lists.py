"""Verifiers of answers that are JSON lists or rows of numbers."""

import json
import math
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from hivemind_exp.tasks.verifiers.text import NEARLY, in_place

TOLERANCE = 1e-6


def nesting(text: str, opening: str, closing: str) -> int:
    """Return how deeply brackets are nested."""
    return max(accumulate((letter in opening) - (letter in closing) for letter in text), default=0)


def parse_lists(text: str, *, depth: int) -> Any:
    """Parse ``text`` as JSON. Return None if it is invalid, too deep, or has non-finite or very long numbers."""
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
    """Full credit for the same groups of words, with the words and groups in any order."""
    mine = _strings(parse_lists(answer, depth=2))
    if mine is None:
        return 0.0
    return 1.0 if sorted(map(sorted, mine)) == sorted(map(sorted, entry["solution"])) else 0.01


def numbers(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for the same numbers in the same order, quoted or not."""
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


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().split("\n")]


def _rows(text: str) -> list[list[str]]:
    return [line.split() for line in _lines(text)]


def matrix(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for the same rows with any spacing; a tenth for the correct numbers as nested lists."""
    right = _rows(entry["answer"])
    if _rows(answer) == right:
        return 1.0
    lists = parse_lists(answer, depth=2)
    if not isinstance(lists, list):
        return 0.0
    rows = [row if isinstance(row, list) else [row] for row in lists]
    if len(right) == 1:
        rows = [[cell for row in rows for cell in row]]
    return 0.1 if [[str(cell) for cell in row] for row in rows] == right else 0.0


def digits(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for the solved puzzle; otherwise up to 0.9, by the share of digits in the right position."""
    if _lines(answer) == _lines(entry["answer"]):
        return 1.0
    solution = entry["solution"]
    rows = [[int(cell) for cell in line if cell in "123456789"] for line in answer.split("\n")]
    rows = [row for row in rows if len(row) == len(solution[0])]
    hits = sum(in_place(row, its) for row, its in zip(rows, solution, strict=False))
    share = min(1.0, len(entry["answer"]) / max(len(answer), 1))
    return 0.9 * share * hits / (len(solution) * len(solution[0]))


def cells(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for the same nested JSON lists; otherwise the share of cells in the right position."""
    mine, right = parse_lists(answer, depth=2), parse_lists(entry["answer"], depth=2)
    if not isinstance(mine, list) or not isinstance(right, list):
        return 0.0
    if mine == right:
        return 1.0
    total = sum(len(row) for row in right)
    hits = sum(in_place(row, its) for row, its in zip(mine, right, strict=False) if isinstance(row, list))
    return min(hits / total, NEARLY) if total else 0.0
