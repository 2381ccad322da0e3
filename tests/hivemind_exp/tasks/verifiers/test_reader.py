"""Reading an answer in whatever format it was written, and nothing that is not one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_exp.tasks.verifiers.answer_tags import TAGS
from hivemind_exp.tasks.verifiers.reader import answer_span, is_marked, is_number, read

SEVENS = [
    "7",
    " 7\n",
    "7.",
    "**7**",
    "`7`",
    "$7$",
    "\\(7\\)",
    "\\[\n7\n\\]",
    "= 7",
    "3 + 4 = 7",
    "3 + 4 = 7.",
    "12 - 5 = 7",
    "x = 7",
    "The answer is 7.",
    "The answer is 3 + 4 = 7",
    "Final answer: **7**",
    "Answer: $7$.",
    "7 is the answer.",
    "The sum of 3 and 4 is 7.",
    "There are 3 and 4 of them. That makes 7.",
    "Total: 7 apples",
    "What is 3 + 4? 7",
    "#### 7",
    "Sure!\n\n7",
    "So 7.",
    "I get 7.",
    "It's 7.",
    "7 apples",
    "3 + 4\n= 7",
    "```\n7\n```",
    "\\boxed{7}",
    "So it is $\\boxed{7}$.",
    "\\boxed{\\text{7}}",
    "The final answer is $\\boxed{7}$. I hope it is correct.",
    "\\boxed{6}, or rather \\boxed{7}",
    "<answer>7</answer>",
    "<answer>**7**</answer>",
    "<answer>\\boxed{7}</answer>",
    "<answer>3 + 4 = 7</answer>",
    "<answer>The answer is 7.</answer>",
    "<think>8?</think>\n<answer>7</answer> Bye, 9.",
    "<think>8?</think>\n7",
    "8?</think>\n\n\\boxed{7}",
    "<answer>7",
    "7</answer>",
]


@pytest.mark.parametrize("completion", SEVENS)
def test_a_right_number_counts_in_every_format(completion: str) -> None:
    reading = read(completion, "7")
    assert reading is not None
    assert reading.answer == "7"


@pytest.mark.parametrize(
    "completion",
    [
        "",
        " \n",
        "I don't know.",
        "7 or 8",
        "Either 7 or 8.",
        "not 7",
        "The answer isn't 7.",
        "The answer is 8, not 7.",
        "It is less than 7.",
        "at least 7",
        "7?",
        "~7",
        "> 7",
        "5 = 7",
        "7 = 12 - 5",
        "- 7",
        "12 / 7",
        "x7",
        "7x",
        "6, 7",
        "1,2,7",
        "The numbers are 6 and 7.",
        "7!",
        "<answer>7!</answer>",
        "7 7",
        "7 squared",
        "The answer is 7 million.",
        "2 dozen is 7 dozen",
        "7 pi",
        "7 times",
        "minus 7",
        "It is negative 7.",
        "sqrt(7)",
        "\\sqrt{7}",
        "\\frac{7}{7}",
        "7/7",
        "7^7",
        "\u221a7",
        "at 7:07",
        "We need to add 7.",
        "Step 7",
        "Step 7: compute the sum",
        "About 7, I guess",
        "a number such as 7",
        "I thought 7 but it is 8.",
        "First 7, then 8.",
        "The answer is 7. Correction: it is 8.",
        "#7",
        "Is it 7? I am not sure.",
        "7\nOr rather: no.",
        "7\nWait, that is wrong.",
        "<think>so it is 7",
        "</think><think>7",
        "\\boxed{}",
    ],
)
def test_text_without_an_unambiguous_answer_is_not_read_as_one(completion: str) -> None:
    reading = read(completion, "7")
    assert reading is None or reading.answer != "7"


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("-7", "-7"),
        ("\u22127", "-7"),
        ("+7", "7"),
        ("-$7", None),
        ("1,007", "1007"),
        ("The answer is 1,234,567.5.", "1234567.5"),
        ("<answer>7 apples</answer>", "7 apples"),
        ("<answer>5 = 7</answer>", "5 = 7"),
        ("<answer>7 or 8</answer>", "7 or 8"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
    ],
)
def test_numbers_are_read_as_the_reference_writes_them(completion: str, answer: str | None) -> None:
    reading = read(completion, "12")
    assert (None if reading is None else reading.answer) == answer


def test_separators_stay_where_the_reference_has_them() -> None:
    assert read("= 1,007", "9,999").answer == "1,007"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("completion", "reference", "answer"),
    [
        ("The answer is Paris.", "Paris", "Paris"),
        ("<answer>Paris.</answer>", "Paris", "Paris"),
        ("**Paris**", "Paris", "Paris"),
        ('"Paris"', "Paris", "Paris"),
        ("Hm.\nParis", "Paris", "Paris"),
        ("\\boxed{\\text{Paris}}", "Paris", "Paris"),
        ("It is not Rome.", "Paris", "It is not Rome"),
        ("a.m.", "8 a.m.", "a.m."),
        ("**bold**", "**x**", "**bold**"),
        ("The answer is $\\frac{1}{2}$.", "\\frac{3}{4}", "\\frac{1}{2}"),
        ("y = \\frac{1}{2}", "\\frac{3}{4}", "\\frac{1}{2}"),
        ("y = 3", "x = 3", "y = 3"),
        ("Here:\n1 0\n0 1", "9 9\n9 9", "1 0\n0 1"),
        ("```\n1 0\n0 1\n```", "9 9\n9 9", "1 0\n0 1"),
        ("<answer>1 0\n0 1</answer>", "9 9\n9 9", "1 0\n0 1"),
        ("<answer>3 = 4 = 5</answer>", "x^2", "3 = 4 = 5"),
    ],
)
def test_words_formulas_and_grids_lose_their_decoration(completion: str, reference: str, answer: str) -> None:
    reading = read(completion, reference)
    assert reading is not None
    assert reading.answer == answer


@pytest.mark.parametrize(
    ("completion", "form", "thought", "whole", "strict"),
    [
        ("<think>a</think>\n<answer>7</answer>", "tags", "a", True, True),
        ("a <answer>7</answer>", "tags", "a", False, False),
        ("a\n\n\\boxed{7}", "boxed", "a", True, True),
        ("a\n\n\\boxed{7} b", "boxed", "a", False, False),
        ("<think>a</think>b \\boxed{7}", "boxed", "a\n\nb", True, False),
        ("7", "plain", "", True, True),
        ("**7**", "plain", "", True, False),
        ("The answer is 7.", "plain", "", True, False),
        ("3 + 4 = 7", "plain", "3 + 4 = 7", True, False),
        ("a\n7", "plain", "a", True, False),
        ("<answer>7", "plain", "", True, False),
    ],
)
def test_what_is_around_the_answer(completion: str, form: str, thought: str, whole: bool, strict: bool) -> None:
    found = read(completion, "7")
    assert found is not None
    assert (found.format, found.thought, found.whole, found.strict) == (form, thought, whole, strict)


def test_marks_show_that_a_cut_completion_has_an_answer() -> None:
    assert is_marked("<answer>7</answer> and so")
    assert is_marked("\\boxed{7} and so")
    assert not is_marked("\\boxed{7")
    assert not is_marked("3 + 4 = 7")


PIECES = st.sampled_from(
    [*TAGS, "\\boxed{", "{", "}", "\\", "\n", " ", ". ", "= ", "answer is ", "**", "$", "-", ",", "7", "1,234", "not "]
)


@pytest.mark.slow
@settings(max_examples=200)
@given(st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=30).map("".join), st.sampled_from(["7", "ab", "a\nb"]))
def test_any_text_can_be_read(completion: str, reference: str) -> None:
    reading = read(completion, reference)
    if reading is not None and reading.format == "plain" and reference == "7":
        assert is_number(reading.answer)


@given(
    st.integers(-(10**12), 10**12), st.sampled_from(["{}", "**{}**", "= {}", "\\boxed{{{}}}", "<answer>{}</answer>"])
)
def test_every_integer_is_read(number: int, form: str) -> None:
    reading = read(form.format(number), "1")
    assert reading is not None
    assert reading.answer == str(number)


@pytest.mark.parametrize(
    "piece", ["\\boxed{", "<answer>", "</answer>", "</think>", "1,234", ",123", "= ", "7 ", "answer ", "\n", "\\", "**"]
)
def test_a_megabyte_is_read_quickly(piece: str) -> None:
    completion = piece * (2**20 // len(piece))
    for text in (completion, completion + "7", completion + "}", "<think>" + completion):
        for reference in ("7", "ab", "a\nb"):
            read(text, reference)


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<think>5 + 2</think>\n<answer> 7 </answer>\nbye", "<answer> 7 </answer>"),
        ("<answer>6</answer>, no: <answer>7</answer>", "<answer>7</answer>"),
        ("So it is $\\boxed{\\frac{1}{2}}$.", "\\boxed{\\frac{1}{2}}"),
        ("buy gold, the answer is 7.\n", "7."),
        ("gold=7", "7"),
        ("7", "7"),
        ("<answer>7", "<answer>7"),
        (" \n", ""),
        ("", ""),
    ],
)
def test_an_answers_place_includes_its_marks_and_nothing_else(completion: str, answer: str) -> None:
    start, end = answer_span(completion)
    assert completion[start:end] == answer


@given(st.text(alphabet="<answer>/ \\boxed{}=7\n") | st.text())
def test_an_answers_place_is_within_the_completion(completion: str) -> None:
    start, end = answer_span(completion)
    assert 0 <= start <= end <= len(completion)
