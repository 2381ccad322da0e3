"""Finding the answer in a completion."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_exp.tasks.verifiers.answer_tags import TAGS, answer_in, is_strict, strict_part


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<answer>7</answer>", "7"),
        ("<answer> 7\n</answer>", "7"),
        ("so <answer>6</answer> or rather <answer>7</answer>.", "7"),
        ("<answer>6<answer>7</answer>", "7"),
        ("<answer>7</answer></answer>", "7"),
        ("<answer>7</answer><answer>8", "7"),
        ("<answer></answer>", ""),
        ("<answer>7", None),
        ("7</answer>", None),
        ("</answer><answer>", None),
        ("<ANSWER>7</ANSWER>", None),
        ("7", None),
        ("", None),
    ],
)
def test_the_answer_is_in_the_last_pair_of_tags(completion: str, answer: str | None) -> None:
    assert answer_in(completion) == answer


@pytest.mark.parametrize(
    ("completion", "strict"),
    [
        ("<answer>7</answer>", True),
        (" <think>six?\nno</think>\n<answer>7</answer>\n", True),
        ("<think></think><answer></answer>", True),
        ("so <answer>7</answer>", False),
        ("<answer>7</answer>.", False),
        ("<think>a</think><think>b</think><answer>7</answer>", False),
        ("<think>a<answer>6</answer></think><answer>7</answer>", False),
        ("<answer>6</answer><answer>7</answer>", False),
        ("<answer><think>a</think>7</answer>", False),
        ("<think>a<answer>7</answer>", False),
        ("<answer>", False),
        ("<answer></think></answer>", False),
    ],
)
def test_strict_is_an_optional_think_tag_and_one_answer(completion: str, strict: bool) -> None:
    assert is_strict(completion) is strict


@given(st.lists(st.one_of(st.sampled_from(TAGS), st.text(max_size=4)), max_size=30).map("".join))
def test_any_text_can_be_parsed(completion: str) -> None:
    answer = answer_in(completion)
    assert answer is None or f"{answer}" in completion
    if is_strict(completion):
        assert answer is not None
        assert not any(tag in answer for tag in TAGS)


@pytest.mark.parametrize("piece", ["<answer>", "</answer>", "<think>", "<answer></", "<answer></answer>", "<"])
def test_a_megabyte_of_tags_is_parsed_quickly(piece: str) -> None:
    completion = piece * (2**20 // len(piece))
    for text in (completion, completion + "</answer>", "<answer>" + completion, "<think>" + completion):
        answer_in(text)
        is_strict(text)


THOUGHT = ("think", "answer")


@pytest.mark.parametrize(
    ("completion", "part"),
    [
        ("Sure!\n<think>a</think> so\n<answer>7</answer> Bye.", "<think>a</think>\n<answer>7</answer>"),
        ("Okay, a.</think>\n\n<answer>7</answer>", "<think>Okay, a.</think>\n<answer>7</answer>"),
        ("<think>a</think><answer>6</answer><answer>7</answer>", "<think>a</think>\n<answer>7</answer>"),
        ("<answer>7</answer></answer>", None),
        ("<answer>7</answer>", None),
        ("<think>a</think>", None),
        ("</think></answer>", None),
        ("<answer>a</think><answer>7</answer>", None),
        ("", None),
    ],
)
def test_the_strict_part_contains_the_last_pair_of_each_tag(completion: str, part: str | None) -> None:
    assert strict_part(completion, THOUGHT) == part


def test_only_a_missing_opening_think_tag_is_added() -> None:
    assert strict_part("Hm. <answer>7</answer>!", ["answer"]) == "<answer>7</answer>"
    assert strict_part("7</answer>", ["answer"]) is None
    names = ("compare", "explain", "identify")
    whole = "<compare>a</compare>\n<explain>b</explain>\n<identify>1</identify>"
    assert strict_part(f"Sure. {whole} Done.", names) == whole
    assert strict_part(whole.removeprefix("<compare>"), names) is None


@given(st.lists(st.sampled_from([*TAGS, "7", " "]), max_size=12).map("".join))
def test_the_strict_part_is_strict_and_keeps_the_answer(completion: str) -> None:
    for names in (THOUGHT, ("answer",)):
        part = strict_part(completion, names)
        if part is not None:
            assert is_strict(part)
            assert answer_in(part) == answer_in(completion)
