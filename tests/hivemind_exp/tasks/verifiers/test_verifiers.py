"""Verifiers, tested on handwritten cases."""

from __future__ import annotations

from typing import Any

import pytest

from hivemind_exp.tasks.base import FULL_CREDIT
from hivemind_exp.tasks.families.reasoning_gym import verifier
from hivemind_exp.tasks.families.reasoning_gym_catalogue import GENERATORS
from hivemind_exp.tasks.verifiers.logic import truth_table

VERIFIERS = {each.check.partition(".")[2]: verifier(each.check) for each in GENERATORS.values()}
FRACTION = {
    "answer": "1/2", "numerator": 6, "denominator": 12, "simplified_numerator": 1, "simplified_denominator": 2,
}  # fmt: skip
LOGIC = {"answer": None, "variables": ["P", "Q"], "premises": ["(P ∧ Q)", "¬(P → ¬Q)"]}

CASES: list[tuple[str, str, dict[str, Any], float]] = [
    ("containing", "7", {"answer": "7"}, 1.0),
    ("containing", "it is 7", {"answer": "7"}, 1 / 7),
    ("containing", "x" + "7" * 500, {"answer": "7" * 500}, 0.95),
    ("exact", "a b", {"answer": "a b"}, 1.0),
    ("exact", "A b", {"answer": "a b"}, 0.0),
    ("caseless", "False", {"answer": "false"}, 1.0),
    ("caseless", "True", {"answer": "False"}, 0.0),
    ("spelling", "ABC", {"answer": "abc"}, 1.0),
    ("spelling", "abd", {"answer": "abc"}, 2 / 3),
    ("spelling", "abcd", {"answer": "abc"}, 0.8),
    ("palindrome", "abba", {"letters": ["a", "b", "a", "b"]}, 1.0),
    ("palindrome", "aa", {"letters": ["a", "b", "a", "b"]}, 0.05),
    ("palindrome", "abab", {"letters": ["a", "b", "a", "b"]}, 0.0),
    ("word_list", "a, b,c", {"sorted_words": ["a", "b", "c"]}, 1.0),
    ("word_list", "b, c, a", {"sorted_words": ["a", "b", "c"]}, 0.2),
    ("decimal", "+01,000.00", {"answer": "1000"}, 1.0),
    ("decimal", "1e3", {"answer": "1000"}, 1.0),
    ("decimal", "1001", {"answer": "1000"}, 0.0),
    ("tolerant", "0.124", {"answer": "0.1234567", "decimal_places": [3, 3]}, 1.0),
    ("tolerant", "0.125", {"answer": "0.1234567", "decimal_places": [3, 3]}, 0.0),
    ("tolerant", "nan", {"answer": "0.1234567", "decimal_places": [3, 3]}, 0.0),
    ("significant", "12345", {"answer": "12300.4"}, 1.0),
    ("significant", "12400", {"answer": "12300.4"}, 0.0),
    ("number", "1,234.5", {"solution": 1234.5}, 1.0),
    ("number", "1234.6", {"solution": 1234.5}, 0.0),
    ("integer", "255", {"answer": "0xff"}, 1.0),
    ("integer", "-0xFF", {"answer": "-0xff"}, 1.0),
    ("integer", "0b11", {"answer": "0x3"}, 1.0),
    ("fraction", "\\dfrac{1}{2}", FRACTION, 1.0),
    ("fraction", "$1/2$", FRACTION, 1.0),
    ("fraction", "2/4", FRACTION, 0.05),
    ("fraction", "6/12", FRACTION, 0.1),
    ("fraction", "junk", FRACTION, 0.0),
    ("factors", "3 × 2 × 2", {"factors": [2, 2, 3]}, 1.0),
    ("factors", "4 × 3", {"factors": [2, 2, 3]}, 0.5),
    ("factors", "-4 × -3", {"factors": [2, 2, 3]}, 0.0),
    ("near_count", "8", {"answer": "8"}, 1.0),
    ("near_count", "9", {"answer": "8"}, 0.64),
    ("probability", "3/8", {"answer": "0.375"}, 1.0),
    ("probability", "0.376", {"answer": "0.375"}, 0.0),
    ("probability", "3/0", {"answer": "0.375"}, 0.0),
    ("calendar", "Monday", {"answer": "Monday", "task": "weekday_of_date"}, 1.0),
    ("calendar", "Friday", {"answer": "Monday", "task": "weekday_of_date"}, 0.1),
    ("calendar", "monday", {"answer": "Monday", "task": "weekday_of_date"}, 0.05),
    ("calendar", "yes", {"answer": "Yes", "task": "is_leap_year"}, 1.0),
    ("calendar", "600", {"answer": "600", "task": "count_days"}, 1.0),
    ("calendar", "599", {"answer": "600", "task": "count_days"}, 0.95),
    ("calendar", "-600", {"answer": "600", "task": "count_days"}, 4.54e-5),
    ("matrix", "1  2\n3 4", {"answer": "1 2\n3 4"}, 1.0),
    ("matrix", "[[1, 2], [3, 4]]", {"answer": "1 2\n3 4"}, 0.1),
    ("matrix", "1 2 3 4", {"answer": "1 2\n3 4"}, 0.0),
    ("digits", "1 2\n2 1", {"answer": "1 2\n2 1", "solution": [[1, 2], [2, 1]]}, 1.0),
    ("digits", "1 2\n1 2", {"answer": "1 2\n2 1", "solution": [[1, 2], [2, 1]]}, 0.45),
    ("cells", "[[0,1],[1,0]]", {"answer": "[[0,1],[1,0]]"}, 1.0),
    ("cells", "[[0,1],[1,1]]", {"answer": "[[0,1],[1,0]]"}, 0.75),
    ("groups", '[["b","a"],["c"]]', {"solution": [["c"], ["a", "b"]]}, 1.0),
    ("groups", '[["b"],["c"]]', {"solution": [["c"], ["a", "b"]]}, 0.01),
    ("numbers", "['1.0', 2]", {"answer": "['1', '2.0']"}, 1.0),
    ("numbers", "[1, 2.5]", {"answer": "['1', '2.0']"}, 0.0),
    ("numbers", "[NaN, NaN]", {"answer": "['1', '2.0']"}, 0.0),
    ("numbers", "['nan', 'nan']", {"answer": "['1', '2.0']"}, 0.0),
    ("one_of", "Q _\n_ Q", {"valid_answers": ["_ Q\nQ _", "Q _\n_ Q"]}, 1.0),
    ("conclusion", "P ∧ Q", LOGIC, 1.0),
    ("conclusion", "P → Q", LOGIC, 1.0),
    ("conclusion", "P", LOGIC, 0.25),
    ("conclusion", "P ∨ ¬P", LOGIC, 0.25),
    ("conclusion", "¬P", LOGIC, 0.05),
    ("conclusion", "P ∧ R", LOGIC, 0.0),
    ("conclusion", "P Q", LOGIC, 0.0),
]


@pytest.mark.parametrize(("name", "answer", "entry", "credit"), CASES)
def test_credit(name: str, answer: str, entry: dict[str, Any], credit: float) -> None:
    assert VERIFIERS[name](answer, entry) == pytest.approx(credit, rel=1e-3)


def test_only_right_answers_reach_full_credit() -> None:
    assert all(credit == 1.0 or credit < FULL_CREDIT for *_, credit in CASES)


@pytest.mark.parametrize(
    ("formula", "rows"),
    [
        ("P", [0, 1, 0, 1]),
        ("¬¬P", [0, 1, 0, 1]),
        ("¬P ∧ Q", [0, 0, 1, 0]),
        ("¬(P ∧ Q)", [1, 1, 1, 0]),
        ("P → Q", [1, 0, 1, 1]),
        ("P ↔ Q", [1, 0, 0, 1]),
        ("P → Q → P", [0, 1, 0, 1]),
        ("P ∨ Q ∧ ¬Q", [0, 1, 0, 1]),
        ("P ↔ Q → P", [0, 1, 1, 1]),
    ],
)
def test_truth_tables(formula: str, rows: list[int]) -> None:
    """The rows are: neither, only P, only Q, both. Implications group to the left, as in the library."""
    assert truth_table(formula, ["P", "Q"]) == sum(bit << row for row, bit in enumerate(rows))


@pytest.mark.parametrize("formula", ["", "(", ")", "()", "P)", "(P", "∧", "P ∧", "∧ P", "P ¬ Q", "P(Q)", "R", "PQ"])
def test_an_invalid_formula_has_no_truth_table(formula: str) -> None:
    assert truth_table(formula, ["P", "Q"]) is None
