"""Levels of difficulty lead from the curriculum's easiest values to the task's own parameters, and never beyond."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from hivemind_exp.tasks.base import TaskSpec
from hivemind_exp.tasks.families import reasoning_gym as generators
from hivemind_exp.tasks.families.difficulty import MOST_STEPS, levels
from hivemind_exp.tasks.families.reasoning_gym_catalogue import GENERATORS

SLOW = {"arc_agi", "figlet_font", "futoshiki", "group_anagrams", "zebra_puzzles"}
"""Generators that take seconds to make their questions."""


def ranged(values: list[Any], *, interval: bool = False) -> SimpleNamespace:
    return SimpleNamespace(levels=values, lower_field_name="low", upper_field_name="high", ensure_interval=interval)


def scalar(values: list[Any]) -> SimpleNamespace:
    return SimpleNamespace(levels=values, field_name="value")


@pytest.mark.parametrize(
    ("attribute", "own", "expected"),
    [
        (ranged([2, 3, 4, 9]), {"low": 2, "high": 5}, [2, 3, 4, 5]),
        (ranged([2, 3, 4, 9], interval=True), {"low": 2, "high": 5}, [3, 4, 5]),
        (ranged([10, 50]), {"low": 2, "high": 10}, [2, 4, 6, 8, 10]),  # the curriculum only gets harder
        (ranged([10, 50]), {"low": 0.0, "high": 1.0}, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (ranged([10, 50]), {"low": 3, "high": 3}, [3]),
        (scalar([5, 10, 15]), {"value": 12}, [5, 10, 12]),
        (scalar([0.5, 0.2, 0.1]), {"value": 0.2}, [0.5, 0.2]),
        (scalar([["a"], ["a", "b"], ["a", "b", "c"]]), {"value": ["b"]}, [["a"], ["b"]]),
        (scalar([False, True]), {"value": True}, [False, True]),
        (scalar([True, True]), {"value": True}, [True]),
    ],
)
def test_one_parameter_leads_up_to_the_tasks_own_value(
    attribute: SimpleNamespace, own: dict[str, Any], expected: list[Any]
) -> None:
    found = levels(SimpleNamespace(attributes={"it": attribute}), SimpleNamespace(**own))
    name = "high" if "high" in own else "value"
    assert [level[name] for level in found] == expected


def test_several_parameters_rise_together_in_a_bounded_number_of_levels() -> None:
    attributes = {"a": ranged(list(range(1, 41))), "b": scalar([1, 2, 3])}
    found = levels(SimpleNamespace(attributes=attributes), SimpleNamespace(low=1, high=40, value=3))
    assert len(found) == MOST_STEPS + 1
    assert found[0] == {"high": 1, "value": 1}
    assert found[-1] == {"high": 40, "value": 3}
    assert all(one["high"] <= other["high"] and one["value"] <= other["value"] for one, other in pairwise(found))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(GENERATORS) - SLOW))
def test_every_generator_makes_questions_at_all_its_levels(name: str) -> None:
    task = generators.build(TaskSpec(name, "m", name, curriculum=True))
    task.prepare("make")
    for level in range(len(task.levels)):
        assert task.make_at(11, level)[0]
    if task.levels:
        assert task.make_at(7, len(task.levels) - 1) == task.make(7)


def test_the_tasks_own_parameters_are_the_last_level() -> None:
    params = {"max_terms": 4, "max_digits": 2, "operators": ["+"]}
    task = generators.build(TaskSpec("basic_arithmetic", "m", "basic_arithmetic", params=params, curriculum=True))
    task.prepare("make")
    assert [(level["max_terms"], level["max_digits"]) for level in task.levels] == [(2, 1), (3, 1), (4, 2)]
    assert {task.make_at(seed, 0)[0].count("+") for seed in range(20)} == {1}
    assert task.make_at(5, 2) == task.make(5)


def test_without_a_curriculum_there_are_no_levels() -> None:
    task = generators.build(TaskSpec("basic_arithmetic", "m", "basic_arithmetic"))
    task.prepare("make")
    assert not task.levels
