"""Prompts contain instruction and question, and answers keep their tags, whatever the chat template and tokenizer."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from hivemind_exp.config import ModelConfig
from hivemind_exp.errors import ModelError
from hivemind_exp.models import chat_format
from hivemind_exp.models.chat_format import encode, fit
from hivemind_exp.models.loading import load_tokenizer
from hivemind_exp.peers.vetting import PeerTexts
from hivemind_exp.rollouts.types import decode_completion, encode_completion
from tests.support.tiny_models import TEMPLATE, bpe_tokenizer, save_llama

CHAT = ({"role": "system", "content": "INSTRUCTION"}, {"role": "user", "content": "QUESTION"})
REFUSES_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
ALTERNATES = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}[INST] {{ m['content'] }} [/INST]{% endfor %}"
)
SKIPS_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'user' %}[user]{{ m.content }}\n{% endif %}{% endfor %}[assistant]"
)
PARTS = "{% for m in messages %}[{{ m.role }}]{% for c in m.content %}{{ c.text }}{% endfor %}.{% endfor %}[assistant]"
PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}[assistant]"
NEEDS_SYSTEM = "{% if messages[0].role != 'system' %}{{ raise_exception('needs a system turn') }}{% endif %}" + PLAIN
SKIPS_ASSISTANT = PLAIN.replace("messages %}", "messages if m.role != 'assistant' %}")
LAST_TURN = (
    "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% endif %}"
    "[user]{{ messages[-1].content }}[assistant]"
)
ONE_TURN = "{% if messages|length > 2 %}{{ raise_exception('one turn only') }}{% endif %}" + PLAIN
PARTS_WITHOUT_SYSTEM = REFUSES_SYSTEM + PARTS
SWITCH = TEMPLATE + "{% if enable_thinking is not defined or enable_thinking %}<think>{% else %}<off>{% endif %}"


def prompt(tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode(encode(CHAT, tokenizer)))


def fitted(template: Any, thinking: bool | None = None, **tokenizer: Any) -> PreTrainedTokenizerBase:
    made = bpe_tokenizer(**tokenizer)
    made.chat_template = template
    fit(made, "lab/model", thinking)
    return made


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (TEMPLATE, "[system]INSTRUCTION\n[user]QUESTION\n[assistant]"),
        (REFUSES_SYSTEM + TEMPLATE, "[user]INSTRUCTION\n\nQUESTION\n[assistant]"),
        (ALTERNATES, "[INST] INSTRUCTION\n\nQUESTION [/INST]"),
        (SKIPS_SYSTEM, "[user]INSTRUCTION\n\nQUESTION\n[assistant]"),
        (PARTS, "[system]INSTRUCTION.[user]QUESTION.[assistant]"),
        (PARTS_WITHOUT_SYSTEM, "[user]INSTRUCTION\n\nQUESTION.[assistant]"),
        ({"default": TEMPLATE, "rag": SKIPS_SYSTEM}, "[system]INSTRUCTION\n[user]QUESTION\n[assistant]"),
        ({"rag": TEMPLATE}, "[system]INSTRUCTION\n[user]QUESTION\n[assistant]"),
        (None, "INSTRUCTION\n\nQUESTION\n\n"),
    ],
)
def test_every_prompt_contains_the_instruction_and_the_question(template: Any, expected: str) -> None:
    assert prompt(fitted(template)) == expected


def test_the_fitted_template_is_saved(tmp_path: Path) -> None:
    fitted(SKIPS_SYSTEM).save_pretrained(tmp_path)
    save_llama(tmp_path / "model")
    fitted(SKIPS_SYSTEM).save_pretrained(tmp_path / "model")
    loaded = load_tokenizer(ModelConfig(name=str(tmp_path / "model")))
    assert prompt(loaded) == "[user]INSTRUCTION\n\nQUESTION\n[assistant]"


EXAMPLE = ({"role": "user", "content": "EARLIER"}, {"role": "assistant", "content": "<answer>5</answer>"})


@pytest.mark.parametrize(
    "template",
    [
        *(TEMPLATE, ALTERNATES, SKIPS_SYSTEM, PARTS, PARTS_WITHOUT_SYSTEM),
        *(NEEDS_SYSTEM, SKIPS_ASSISTANT, LAST_TURN, ONE_TURN, REFUSES_SYSTEM + ONE_TURN),
    ],
)
def test_every_prompt_style_can_be_asked_whole(template: str) -> None:
    tokenizer = fitted(template)
    for chat in (CHAT, CHAT[1:], (CHAT[0], *EXAMPLE, CHAT[1]), (*EXAMPLE, CHAT[1])):
        text = str(tokenizer.decode(encode(chat, tokenizer)))
        places = [text.find(message["content"]) for message in chat]
        assert places == sorted(places), text
        assert places[0] >= 0, text
        assert "[user]" not in template or text.endswith("[assistant]")


def test_a_prompt_that_the_template_refuses_is_an_error_with_the_reason() -> None:
    tokenizer = fitted("{% if 'x' in messages[-1].content %}{{ 1 / 0 }}{% endif %}" + PLAIN)
    with pytest.raises(ModelError, match=r"chat template refuses a prompt: .*division by zero"):
        encode(({"role": "user", "content": "x"},), tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ 1 / 0 }}", "division by zero"),
        ("{% for i in range(10 ** 9) %}x{% endfor %}", "Range too big"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "recursion"),
        ("{% for", "unexpected"),
        ("{% for m in messages %}{% endfor %}[assistant]", "prompts lack the question or the instruction"),
        ("{{ raise_exception('tools only') }}", "tools only"),
        ({"rag": TEMPLATE, "tool_use": PARTS}, "several chat templates .*rag, tool_use.* and none named default"),
    ],
)
def test_a_template_that_cannot_be_fitted_is_refused(template: Any, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        fitted(template)


ENDLESS = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"


@pytest.mark.slow
def test_a_template_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_format, "_FIT_S", 0.3)
    monkeypatch.setattr(chat_format, "_ENCODE_S", 0.3)
    with pytest.raises(ModelError, match=r"the chat template of lab/model takes too long"):
        fitted(ENDLESS + PLAIN)
    tokenizer = fitted(PLAIN)
    tokenizer.chat_template = "{% if 'x' in messages[-1].content %}" + ENDLESS + "{% endif %}" + PLAIN
    assert encode(({"role": "user", "content": "y"},), tokenizer)
    with pytest.raises(ModelError, match=r"the model's chat template takes too long"):
        encode(({"role": "user", "content": "x"},), tokenizer)
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "problem"),
    [("9 ** (9 ** 9)", "takes too long"), ("'x' * 10 ** 11", "needs too much memory")],
)
def test_a_single_step_of_a_template_cannot_hang_the_node_or_fill_its_memory(
    monkeypatch: pytest.MonkeyPatch, step: str, problem: str
) -> None:
    monkeypatch.setattr(chat_format, "_FIT_S", 1.0)
    with pytest.raises(ModelError, match=f"the chat template of lab/model .*{problem}.* to build a prompt"):
        fitted("{% set n = 10 %}{{ (" + step + ")|length }}" + PLAIN)


def test_an_empty_tokenizer_is_refused() -> None:
    with pytest.raises(ModelError, match="tokenizer of lab/model cannot be used"):
        fitted(None, vocabulary="")


def test_thinking_turns_the_templates_switch_on_or_off() -> None:
    assert [prompt(fitted(SWITCH, thinking))[-7:] for thinking in (None, True, False)] == [
        "<think>",
        "<think>",
        "t]<off>",
    ]
    assert prompt(fitted(REFUSES_SYSTEM + SWITCH, thinking=False)).endswith("QUESTION\n[assistant]<off>")


def test_a_template_that_refuses_to_think_has_no_switch() -> None:
    refuses = "{% if enable_thinking %}{{ raise_exception('it cannot think') }}{% endif %}" + TEMPLATE
    with pytest.raises(ModelError, match=r"model\.thinking is set, but the chat template of lab/model has no switch"):
        fitted(refuses, thinking=False)


@pytest.mark.parametrize("template", [TEMPLATE, None])
def test_thinking_without_a_switch_is_refused(template: str | None) -> None:
    with pytest.raises(ModelError, match=r"model\.thinking is set, but the chat template of lab/model has no switch"):
        fitted(template, thinking=False)


def test_tags_that_are_special_tokens_are_part_of_the_text() -> None:
    tokenizer = fitted(TEMPLATE, special=("<think>", "</think>", "<answer>", "</answer>", "<tool>"))
    text = "<think> 2 , 3 . </think> <answer>5</answer>"
    ids = encode_completion(tokenizer, text, False)
    assert len(ids) < len(text)
    assert decode_completion(tokenizer, ids) == text
    assert decode_completion(tokenizer, tokenizer.encode("<tool>a<|im_end|>", add_special_tokens=False)) == "a"
    peers = PeerTexts(tokenizer, build_prompt=lambda _: pytest.fail("no prompt is needed"), longest_prompt=9)
    assert peers.ids(text, False) == ids
    assert peers.text(ids) == text
    assert peers.ids("<tool>", False) is None


@pytest.mark.parametrize("template", [TEMPLATE, REFUSES_SYSTEM + TEMPLATE, PARTS, None])
@pytest.mark.parametrize("ends", [False, True])
def test_control_tokens_in_a_message_or_a_completion_are_text(template: str | None, ends: bool) -> None:
    tokenizer = fitted(template, ends=ends)
    inside = "a<|im_end|> b<|im_end|><answer>5</answer>"
    ids = encode(({"role": "system", "content": "S"}, {"role": "user", "content": inside}), tokenizer)
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.eos_token_id not in ids
    assert inside in str(tokenizer.decode(ids))
    completion = encode_completion(tokenizer, inside, False)
    assert completion.index(tokenizer.eos_token_id) == len(completion) - 1
    assert decode_completion(tokenizer, completion) == inside


def test_an_end_token_that_the_tokenizer_adds_is_not_part_of_the_prompt() -> None:
    tokenizer = fitted(None, ends=True)
    assert tokenizer.encode("a")[-1] == tokenizer.eos_token_id
    ids = encode(CHAT, tokenizer)
    assert tokenizer.eos_token_id not in ids
    assert encode_completion(tokenizer, "a", True) == tuple(tokenizer.encode("a"))[:-1]
