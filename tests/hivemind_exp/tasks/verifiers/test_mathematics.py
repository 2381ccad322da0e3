"""Answers compared mathematically."""

from __future__ import annotations

import pytest

from hivemind_exp.tasks.verifiers.mathematics import harmless, load, same
from tests.support.hostile.hostile_completions import BOMBS, ODDITIES


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    load()


@pytest.mark.parametrize(
    ("right", "answer"),
    [
        ("42", "42"),
        ("42", "42.0"),
        ("42", "$42"),
        ("42", "$42$"),
        ("42", "42 dollars"),
        ("42", "\\boxed{42}"),
        ("42", "x = 42"),
        ("42", "84/2"),
        ("42", "2^5 + 10"),
        ("1234", "1,234"),
        ("-5", "-5.00"),
        ("\\frac{1}{2}", "0.5"),
        ("x^2+1", "1 + x^2"),
        ("(1,2)", "(1, 2)"),
        ("\\sqrt{2}", "2^{1/2}"),
    ],
)
def test_equal(right: str, answer: str) -> None:
    assert same(answer, right) == 1.0


@pytest.mark.parametrize(
    "answer",
    ["43", "41, 42, 43", "42 or 41", "41 or 42", "\\{41, 42\\}", "\\pm 42", "x", "x<43", "(41,43)", "4,2", "1,042",
     "not 42", "2**2**2**2**2", *(oddity for oddity in ODDITIES if oddity not in ("４２", "\u202e42"))],
)  # fmt: skip
def test_not_equal(answer: str) -> None:
    assert same(answer, "42") == 0.0


def test_dangerous_expressions_never_reach_the_algebra_system() -> None:
    risky = [bomb for bomb in BOMBS if "**" in bomb or "^" in bomb or "!" in bomb or len(bomb) > 400]
    assert len(risky) > 20
    assert not any(map(harmless, risky))
