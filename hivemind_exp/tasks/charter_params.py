"""The parameters that a charter can set. Strangers choose them, and every node in the swarm runs generators with them.

Numbers within bounds, and words from the lists below. No paths, which could name any file, and no free text, which
could end up in a prompt. A node's own profile can set every parameter.
"""

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from hivemind_exp.tasks.families.reasoning_gym import default_params
from hivemind_exp.tasks.families.reasoning_gym_catalogue import GENERATORS

LARGEST = 10_000
"""Largest number, unless a generator's own default is larger than a tenth of it."""
TIMES_DEFAULT = 10
LONGEST_LIST = 32
WORDS: Mapping[tuple[str, str], frozenset[str]] = {
    ("arc_agi", "mirrors"): frozenset({"horizontal", "vertical", "diagonal", "counterdiagonal"}),
    ("arc_agi", "rotations"): frozenset({"90", "180", "270"}),
    ("basic_arithmetic", "format_style"): frozenset({"simple", "natural"}),
    ("basic_arithmetic", "operators"): frozenset("+-*/"),
    ("basic_arithmetic", "whitespace"): frozenset({"no_space", "single", "random"}),
    ("calendar_arithmetic", "tasks"): frozenset({
        "weekday_offset", "weekday_of_date", "weekday_of_date_from_first_date", "recurring_event_day", "count_days",
        "count_business_days", "is_leap_year",
    }),
    ("fraction_simplification", "styles"): frozenset({"plain", "latex_inline", "latex_frac", "latex_dfrac"}),
    ("simple_equations", "operators"): frozenset("+-*"),
}  # fmt: skip
"""The words that a parameter accepts, by generator and parameter."""


def unfit_param(task: str, params: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the first parameter that a charter cannot set, with the reason; None if it can set all.

    The value is not repeated, because an attacker may have written it.
    """
    if params and task not in GENERATORS:
        return "a parameter", "this task has none"
    defaults = default_params(task) if params else {}
    for name, value in params.items():
        if name not in defaults:
            return "a parameter", "this version of the generator does not have it"
        if why := _unfit(value, WORDS.get((task, name), frozenset()), _largest(defaults[name])):
            return name, why
    return None


def fit_levels(task: str, levels: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Return the levels of difficulty that a charter can list: those before the task's own parameters, and these.

    Empty if the charter cannot name the task's own parameters, or no easier ones.
    """
    fit = [level for level in levels if unfit_param(task, level) is None]
    return tuple(fit) if len(fit) > 1 and fit[-1] == levels[-1] else ()


def _unfit(value: Any, words: frozenset[str], most: int) -> str | None:
    values = value if isinstance(value, list) else [value]
    if len(values) > LONGEST_LIST:
        return f"a list can have at most {LONGEST_LIST} values"
    if any(isinstance(each, str) and each not in words for each in values):
        return "a charter cannot set text, except for the words that the generator knows"
    if not all(isinstance(each, bool | int | float | str) for each in values):
        return "a charter can set only numbers, true or false, and known words"
    if any(not isinstance(each, str) and not abs(each) <= most for each in values):
        return f"the largest number that a charter can set here is {most:,}"
    return None


def _largest(default: ast.expr | None) -> int:
    """Return the bound for a number, from the default in the library's source."""
    try:
        value = ast.literal_eval(default) if default is not None else 0
    except ValueError:
        value = 0
    numbers: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    known = [abs(each) for each in numbers if isinstance(each, int | float)]
    return max(LARGEST, TIMES_DEFAULT * int(max(known, default=0)))
