"""Verifier of conclusions in propositional logic, by truth tables."""

from collections.abc import Mapping, Sequence
from typing import Any

LONGEST_FORMULA = 400
"""Maximum length of a conclusion, in characters; longer ones get no credit."""
MOST_VARIABLES = 10

_NOT, _AND, _OR, _IMPLIES, _IFF = "¬∧∨→↔"
_BINDS = {_IFF: 1, _IMPLIES: 2, _OR: 3, _AND: 4, _NOT: 5}


def truth_table(formula: str, variables: Sequence[str]) -> int | None:
    """Return the formula's truth table, one bit per assignment, or None if it is not a formula.

    Uses two stacks (Dijkstra's shunting yard), so that nesting needs no recursion. Operators with the same precedence
    group to the left, as in the library's parser.
    """
    rows = 1 << len(variables)
    full = (1 << rows) - 1
    tables = {name: sum(1 << row for row in range(rows) if row >> place & 1) for place, name in enumerate(variables)}
    values: list[int] = []
    operators: list[str] = []
    wants_value = True
    for token in "".join(formula.split()):
        if token in tables and wants_value:
            values.append(tables[token])
            wants_value = False
        elif wants_value and token in ("(", _NOT):
            operators.append(token)
        elif token == ")" and not wants_value:
            while operators and operators[-1] != "(":
                _apply(operators.pop(), values, full)
            if not operators:
                return None
            operators.pop()
        elif token in _BINDS and token != _NOT and not wants_value:
            while operators and operators[-1] != "(" and _BINDS[operators[-1]] >= _BINDS[token]:
                _apply(operators.pop(), values, full)
            operators.append(token)
            wants_value = True
        else:
            return None
    if wants_value or "(" in operators:
        return None
    while operators:
        _apply(operators.pop(), values, full)
    return values[0]


def _apply(operator: str, values: list[int], full: int) -> None:
    right = values.pop()
    if operator == _NOT:
        values.append(full ^ right)
        return
    left = values.pop()
    values.append(
        {_AND: left & right, _OR: left | right, _IMPLIES: (full ^ left) | right, _IFF: full ^ left ^ right}[operator]
    )


def conclusion(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for a formula that follows from the premises; a quarter for a tautology such as P ∨ ¬P.

    A single variable gets a quarter, too, as in the library.
    """
    variables = entry["variables"]
    if len(answer) > LONGEST_FORMULA or len(variables) > MOST_VARIABLES:
        return 0.0
    claimed = truth_table(answer, variables)
    if claimed is None:
        return 0.0
    full = (1 << (1 << len(variables))) - 1
    premises = full
    for premise in entry["premises"]:
        premises &= truth_table(premise, variables) or 0
    if premises & ~claimed:
        return 0.05
    return 0.25 if claimed == full or answer.strip(" ()") in variables else 1.0
