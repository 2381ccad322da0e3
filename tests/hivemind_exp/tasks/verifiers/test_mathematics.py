"""Answers compared mathematically."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_exp.tasks.verifiers.mathematics import harmless, load, same
from tests.support.hostile.hostile_completions import BOMBS, ODDITIES
from tests.support.math_pairs import ACCEPTED, DIFFERENT, EQUAL, REFUSED

pytestmark = pytest.mark.slow

PIECES = st.sampled_from(
    [*"129xyn!()[]{}+-*/=<,.$%²√π−½°|:;", " ", "\\frac{1}{2}", "\\sqrt{3}", "^{2}", "^{100}", "million", "pm", "cm",
     "\\%", "\\text{ and }", "_2", "\\overline{3}", "\\binom{5}{2}", "^\\circ", "\\boxed{", "**", "\\infty",
     "\\int_0^1", "10!"]
)  # fmt: skip
TEXTS = st.lists(PIECES, min_size=1, max_size=8).map("".join)
NUMBERS = st.integers(-(10**6), 10**6)
UNITS = ["km", "cm", "hours", "am", "pm", "million", "billion", "percent", "apples", "squared"]
SCALED = ["\\frac{{{}}}{{7}}", "{}%", "{} million"]
WRITINGS = ["{}", "{} cm", "${}$", "{} apples", "x={}", "\\boxed{{{}}}", "{} pm", *SCALED]


@pytest.fixture(scope="module", autouse=True)
def _loaded() -> None:
    load()


@pytest.mark.parametrize(
    ("right", "answer"),
    [
        *EQUAL,
        *ACCEPTED,
        ("42", "84/2"),
        ("42", "2^5 + 10"),
        ("-5", "-5.00"),
        ("x^2+1", "1 + x^2"),
        ("\\sqrt{2}", "2^{1/2}"),
    ],
)
def test_equal(right: str, answer: str) -> None:
    assert same(answer, right) == 1.0


@pytest.mark.parametrize(("right", "answer"), [*DIFFERENT, *REFUSED])
def test_different(right: str, answer: str) -> None:
    assert same(answer, right) == 0.0


@settings(deadline=None)
@given(st.one_of(TEXTS, st.text()))
def test_every_text_is_equal_to_itself(text: str) -> None:
    assert same(text, text) == 1.0
    assert same(f"  {text} ", text) == 1.0


@settings(deadline=None)
@given(NUMBERS, NUMBERS, st.sampled_from(WRITINGS), st.sampled_from(WRITINGS))
def test_different_numbers_are_never_equal(mine: int, its: int, writing: str, other: str) -> None:
    assert (same(writing.format(mine), writing.format(its)) == 1.0) is (mine == its)
    if not {writing, other}.intersection(SCALED):
        assert mine == its or same(writing.format(mine), other.format(its)) == 0.0


@settings(deadline=None)
@given(NUMBERS, st.permutations(UNITS))
def test_different_units_are_never_equal(number: int, units: list[str]) -> None:
    if number:
        assert same(f"{number} {units[0]}", f"{number} {units[1]}") == 0.0


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
