"""What an API is asked for a hint, and which hints give the answer away."""

from __future__ import annotations

import pytest

from hivemind_exp.models.chat_format import encode
from hivemind_exp.models.tiny import build_tokenizer
from hivemind_exp.offload.hints import LONGEST, clean_hint, gives_away, hint_messages, with_hint


@pytest.mark.parametrize(
    ("hint", "reference"),
    [
        ("It is 85.", "85"),
        ("The result is eighty-five.", "85"),
        ("Think of 1,234.50 dollars", "1234.5"),
        ("The answer has the digits 007", "7"),
        ("Minus five is close", "-5"),
        ("Nineteen or so", "19"),
        ("Write tac.", "tac"),
        ("Write T-A-C, letter by letter.", "tac"),
        ("t a c", "tac"),
        ("the capital, PARIS", "Paris"),
        ("first 3, then 1, 2", "1, 2"),
        (r"\boxed{3/4}", "3/4"),
        ("Choose B", "B"),
        ("Use +- here", "+-"),
    ],
)
def test_hints_that_contain_the_answer_are_found(hint: str, reference: str) -> None:
    assert gives_away(hint, reference)


@pytest.mark.parametrize(
    ("hint", "reference"),
    [
        ("Add the tens: 40 + 30 = 70. Then add the ones.", "85"),
        ("Take one digit at a time.", "1"),
        ("It has 185 digits, or 8.5, or 850", "85"),
        ("Start with the last letter, t.", "tac"),
        ("attack the word from its end", "tac"),
        ("A good way is to compare", "B"),
        ("A capital on the Seine", "Paris"),
        ("2, 1", "1, 2"),
        ("", "7"),
        ("twenty or five", "25"),
    ],
)
def test_other_hints_are_not(hint: str, reference: str) -> None:
    assert not gives_away(hint, reference)


def test_the_api_sees_only_the_question() -> None:
    rules, question = hint_messages("What is 47 + 38?")
    assert question == {"role": "user", "content": "What is 47 + 38?"}
    assert "Never state the answer" in rules["content"]


def test_a_hint_becomes_one_short_visible_line() -> None:
    assert clean_hint("  **Hint:** Add\n\nthe  tens.\x1b[2J ") == "Add the tens.\\x1b[2J"
    assert clean_hint("Look for a hint: the end") == "Look for a hint: the end"
    long = clean_hint("word " * 1000)
    assert len(long) <= LONGEST
    assert long.endswith("word")
    assert len(clean_hint("x" * 1000)) == LONGEST
    assert clean_hint(" \n") == ""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("What is 2 + 3?", "What is 2 + 3?\n\nHint: Count on."),
        (
            "What is 2 + 3? Reply with just the number.",
            "What is 2 + 3?\n\nHint: Count on.\n\nReply with just the number.",
        ),
    ],
)
def test_a_hint_follows_its_question(content: str, expected: str) -> None:
    shown = ({"role": "user", "content": "What is 2 + 3?"}, {"role": "assistant", "content": "5"})
    asked = (*shown, {"role": "user", "content": content})
    assert with_hint(asked, "What is 2 + 3?", "Count on.") == (*shown, {"role": "user", "content": expected})


def test_control_tokens_in_a_hint_are_text() -> None:
    tokenizer = build_tokenizer()
    hint = clean_hint(f"a{tokenizer.eos_token}b")
    ids = encode(with_hint(({"role": "user", "content": "q"},), "q", hint), tokenizer)
    assert tokenizer.eos_token_id not in ids
    assert tokenizer.decode(ids).endswith("Hint: a<|end|>b")
