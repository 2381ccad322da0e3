"""What explains a server's log-probabilities, from numbers alone."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from hivemind_exp.sources.adapter_versions import BASE
from hivemind_exp.sources.policy_server_check import NOISE, Cause, Logps, ServerCheck

TRUE = {0: -1.0, 1: -1.2, 2: -1.1, BASE: -0.6}
"""The mean log-probability by each push, and by the base model."""


def own(serial: int, temperature: float) -> Logps:
    return [[TRUE[serial] / temperature - 0.01 * place for place in range(8)]] * 8


def blurred(values: Logps, noise: float) -> Logps:
    draw = random.Random(1)
    return [[each + draw.gauss(0, noise) for each in row] for row in values]


@pytest.mark.parametrize(
    ("theirs", "cause"),
    [
        (own(2, 0.8), None),
        (blurred(own(2, 0.8), 0.02), None),
        (blurred(own(1, 0.8), 0.02), Cause.BEHIND),
        (blurred(own(0, 0.8), 0.02), Cause.BEHIND),
        (blurred(own(BASE, 0.8), 0.02), Cause.IGNORED),
        (blurred(own(2, 1.0), 0.02), Cause.RAW),
        (blurred(own(2, 0.8), 0.3), Cause.FORMAT),
        (blurred(own(2, 0.8), 4.0), Cause.OTHER_MODEL),
    ],
)
def test_the_cause_is_what_the_numbers_are_closest_to(theirs: Logps, cause: Cause | None) -> None:
    found = ServerCheck(0.8).compare(theirs, own, 2, [0, 1])
    assert found.cause is cause
    assert (found.distance <= NOISE) == (cause is None)


def test_a_push_that_is_ignored_is_noticed_below_the_noise_of_the_format() -> None:
    check = ServerCheck(1.0)
    TRUE[3] = TRUE[BASE] + 0.03  # a small step away from the base model
    try:
        assert check.compare(blurred(own(3, 1.0), 0.005), own, 3, []).cause is None
        assert check.compare(blurred(own(BASE, 1.0), 0.005), own, 3, []).cause is Cause.IGNORED
    finally:
        del TRUE[3]


def test_a_server_that_agrees_costs_one_computation() -> None:
    asked: list[int] = []

    def counted(serial: int, temperature: float) -> Logps:
        asked.append(serial)
        return own(serial, temperature)

    check: Callable[..., object] = ServerCheck(1.0).compare
    check(own(2, 1.0), counted, 2, [0, 1])
    assert asked == [2]


def test_before_the_first_step_base_model_and_adapter_are_the_same() -> None:
    TRUE[4] = TRUE[BASE]
    try:
        assert ServerCheck(1.0).compare(blurred(own(4, 1.0), 0.01), own, 4, []).cause is None
    finally:
        del TRUE[4]
