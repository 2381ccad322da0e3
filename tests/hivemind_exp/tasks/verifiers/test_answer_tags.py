"""Finding the answer in a completion."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_exp.tasks.verifiers.answer_tags import TAGS, answer_in, is_strict


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


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", ["<answer>", "</answer>", "<think>", "<answer></", "<answer></answer>", "<"])
def test_a_megabyte_of_tags_is_parsed_quickly(piece: str) -> None:
    completion = piece * (2**20 // len(piece))
    for text in (completion, completion + "</answer>", "<answer>" + completion, "<think>" + completion):
        answer_in(text)
        is_strict(text)
