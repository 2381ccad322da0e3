"""Prompt styles: the chats they build, on any chat template, and putting answers into them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hivemind_exp.config import Config, PromptConfig
from hivemind_exp.game.prompt_style import FORMS, ChatBuilder, Form, PromptStyle, build_chats, configured
from hivemind_exp.models.chat_format import encode, fit
from hivemind_exp.tasks.base import Question
from hivemind_exp.tasks.verifiers.answer_tags import INSTRUCTION
from hivemind_exp.tasks.verifiers.reader import read
from tests.support.spelling_task import Spelling
from tests.support.tiny_models import TEMPLATE, bpe_tokenizer

NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE


def sum_of(a: int, b: int, **changes: Any) -> Question:
    text = changes.get("text", f"What is {a} + {b}?")
    return Question("sums", "train", 0, 0, text, {"answer": str(a + b)}, "d", text)


SHOWN = {"sums": [sum_of(1, 2), sum_of(3, 4)]}


def turns(style: PromptStyle, question: Question | None = None, voice: str = "") -> list[tuple[str, str]]:
    chat = ChatBuilder(style, SHOWN).chat(question or sum_of(5, 6), voice)
    return [(turn["role"], turn["content"]) for turn in chat]


def test_the_default_is_the_chat_of_earlier_versions() -> None:
    assert turns(PromptStyle()) == [("system", INSTRUCTION), ("user", "What is 5 + 6?")]
    assert configured(PromptConfig()) == PromptStyle()


def test_plain_asks_for_just_the_number_in_the_users_turn() -> None:
    assert turns(configured(PromptConfig(style="plain"))) == [("user", "What is 5 + 6? Reply with just the number.")]
    assert turns(PromptStyle("plain", system=True)) == [
        ("system", "Reply with just the number."),
        ("user", "What is 5 + 6?"),
    ]


def test_the_wording_fits_the_task() -> None:
    assert (
        build_chats(PromptStyle("plain"), Spelling())
        .chat(Spelling().questions("train", 0, 1)[0])[0]["content"]
        .endswith("just the word.")
    )
    grid = Question("grids", "train", 0, 0, "Fill in:\n0 1", {"answer": "1 0"}, "d", "k")
    (turn,) = ChatBuilder(PromptStyle("plain", system=False)).chat(grid)
    assert turn["content"] == "Fill in:\n0 1\n\nReply with just the answer."


def test_examples_are_turns_of_the_same_task_in_the_same_style() -> None:
    assert turns(PromptStyle("boxed", 1, system=False)) == [
        ("user", "What is 1 + 2? Reason step by step, and put your final answer within \\boxed{}."),
        ("assistant", "\\boxed{3}"),
        ("user", "What is 5 + 6? Reason step by step, and put your final answer within \\boxed{}."),
    ]
    assert [role for role, _ in turns(PromptStyle("answer-tag", 2))] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]


@pytest.mark.parametrize("system", [True, False])
def test_a_role_speaks_first(system: bool) -> None:
    first = turns(PromptStyle("answer-tag", system=system), voice="You are a pirate.")[0][1]
    assert first.startswith("You are a pirate.\n\n")
    assert "<answer>" in first


def test_shown_questions_are_never_asked() -> None:
    tasks = Spelling()
    chats = build_chats(PromptStyle("plain", 3), tasks)
    shown = {question.text for question in chats.shown["spelling"][:3]}
    asked = {question.text for question in tasks.questions("train", 0, len(tasks._train))}
    assert len(shown) == 3
    assert not shown & asked


@pytest.mark.parametrize("template", [TEMPLATE, NO_SYSTEM, None])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("examples", [0, 2])
@pytest.mark.parametrize("system", [True, False])
def test_every_style_works_with_every_template(template: str | None, form: Form, examples: int, system: bool) -> None:
    tokenizer = bpe_tokenizer()
    tokenizer.chat_template = template
    fit(tokenizer, "lab/model", None)
    chat = ChatBuilder(PromptStyle(form, examples, system), SHOWN).chat(sum_of(5, 6))
    text = "".join(str(tokenizer.decode(encode(chat, tokenizer))).split())
    for turn in chat:
        assert "".join(turn["content"].split()) in text


@given(st.sampled_from(FORMS), st.sampled_from(["7", "-1.5", "Paris"]), st.sampled_from(["", "3 + 4", "so\nso"]))
def test_a_dressed_answer_is_read_back(form: Form, answer: str, thought: str) -> None:
    style = PromptStyle(form)
    for other in FORMS:
        text = PromptStyle(other).dress(read(answer, answer), reasoning=False)  # type: ignore[arg-type]
        assert text is not None
        if thought:
            text = f"<think>{thought}</think>\n{text}" if other == "tags" else f"{thought}\n{text}"
        reading = read(text, answer)
        assert reading is not None
        assert reading.answer == answer
        styled = style.dress(reading)
        assert (styled is None) == bool(reading.thought and form in ("plain", "answer-tag"))
        if styled is not None:
            back = read(styled, answer)
            assert back is not None
            assert (back.answer, back.thought, back.strict) == (answer, reading.thought, True)
        bare = style.dress(reading, reasoning=False)
        assert bare is not None
        assert read(bare, answer).strict  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("form", "text", "adopted"),
    [
        ("plain", "7", "7"),
        ("plain", "The answer is 7.", "The answer is 7."),
        ("plain", "<answer>7</answer>", "7"),
        ("plain", "<think>3 + 4</think>\n<answer>7</answer>", None),
        ("plain", "3 + 4 is \\boxed{7}", None),
        ("plain", "I give up", "I give up"),
        ("tags", "7", "<answer>7</answer>"),
        ("tags", "3 + 4\n\n\\boxed{7}", "<think>3 + 4</think>\n<answer>7</answer>"),
        ("tags", "\\boxed{7} Bye", None),
        ("tags", "so <answer>7</answer>", "so <answer>7</answer>"),
        ("boxed", "<think>3 + 4</think>\n<answer>7</answer>", "3 + 4\n\n\\boxed{7}"),
        ("boxed", "7", "\\boxed{7}"),
    ],
)
def test_another_nodes_text_is_adopted_without_loss_or_not_at_all(form: Form, text: str, adopted: str | None) -> None:
    assert PromptStyle(form).adopt(text, "7") == adopted


def test_a_style_that_cannot_hold_an_answer_refuses_it() -> None:
    reading = read("<answer>}{</answer>", "}{")
    assert reading is not None
    assert PromptStyle("boxed").dress(reading) is None


def test_the_name_of_a_style_says_everything() -> None:
    assert str(PromptStyle()) == "tags, no examples, system turn"
    assert str(PromptStyle("plain", 1, system=False, thinking=True)) == "plain, 1 example, user turn, thinking on"


def test_the_warm_up_refuses_other_styles() -> None:
    with pytest.raises(ValidationError, match=r"warmup\.steps only works with prompt\.style"):
        Config.model_validate({"model": {"name": "tiny"}, "warmup": {"steps": 1}, "prompt": {"style": "plain"}})
