"""Answers that are rows of numbers."""

from collections.abc import Mapping
from typing import Any

from hivemind_exp.tasks.verifiers.lists import parse_lists
from hivemind_exp.tasks.verifiers.text import NEARLY


def _rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.strip().split("\n")]


def matrix(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for the same rows, however spaced; a tenth for the right numbers as nested lists."""
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
    """Full credit for the solved puzzle; up to 0.9 by the share of digits in their places."""
    if [line.rstrip() for line in answer.strip().split("\n")] == [
        line.rstrip() for line in entry["answer"].strip().split("\n")
    ]:
        return 1.0
    solution = entry["solution"]
    rows = [[int(cell) for cell in line if cell in "123456789"] for line in answer.split("\n")]
    rows = [row for row in rows if len(row) == len(solution[0])]
    hits: int = sum(
        mine == right for row, its in zip(rows, solution, strict=False) for mine, right in zip(row, its, strict=True)
    )
    share = min(1.0, len(entry["answer"]) / max(len(answer), 1))
    return 0.9 * share * hits / (len(solution) * len(solution[0]))


def cells(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for the same lists of lists as JSON; otherwise the share of cells in their places."""
    mine, right = parse_lists(answer, depth=2), parse_lists(entry["answer"], depth=2)
    if not isinstance(mine, list) or not isinstance(right, list):
        return 0.0
    if mine == right:
        return 1.0
    total = sum(len(row) for row in right)
    hits: int = sum(
        cell == its
        for row, wanted in zip(mine, right, strict=False)
        if isinstance(row, list)
        for cell, its in zip(row, wanted, strict=False)
    )
    return min(hits / total, NEARLY) if total else 0.0
