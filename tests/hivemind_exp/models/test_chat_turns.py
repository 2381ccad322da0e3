"""A conversation continues with the tokens that the chat template adds, and nothing before them changes."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase

from hivemind_exp.errors import ModelError
from hivemind_exp.models.chat_format import encode
from hivemind_exp.models.chat_turns import check_turns, continuation
from tests.support.tiny_models import SPECIAL, bpe_tokenizer

CHAT = ({"role": "system", "content": "S"}, {"role": "user", "content": "A?"})
REPLY = ({"role": "user", "content": "B?"},)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ CONTENT }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAIN = CHATML.replace("CONTENT", "m.content")
FORGETS = CHATML.replace(
    "CONTENT",
    "m.content.split('</think>')[-1] if m.role == 'assistant' and not loop.last else m.content",
)
SHOUTS = CHATML.replace("CONTENT", "m.content|upper")
PREFILLS = PLAIN.replace("assistant\n{% endif", "assistant\n<think>\n\n</think>\n\n{% endif")
TRIMS = CHATML.replace("CONTENT", "m.content|trim")


def tokenizer(template: str | None) -> PreTrainedTokenizerBase:
    made = bpe_tokenizer()
    made.chat_template = template
    return made


@pytest.mark.parametrize("template", [PLAIN, TRIMS])
@pytest.mark.parametrize("said", ["Yes.", " 1 <|im_start|> 2 ", "", "A?"])
def test_the_next_turn_is_what_the_template_adds(template: str, said: str) -> None:
    made = tokenizer(template)
    sampled = made.encode("")  # the model's own tokens do not matter: they stay
    added = continuation(made, CHAT, said, REPLY)
    assert made.decode([*sampled, *added]) == "\n<|im_start|>user\nB?<|im_end|>\n<|im_start|>assistant\n"


def test_the_whole_conversation_is_the_one_that_the_template_shows() -> None:
    made = tokenizer(PLAIN)
    end = made.convert_tokens_to_ids(SPECIAL[2])
    said = made.encode("Yes.", add_special_tokens=False)
    ids = [*encode(CHAT, made), *said, end, *continuation(made, CHAT, "Yes.", REPLY)]
    assert ids == encode((*CHAT, {"role": "assistant", "content": "Yes."}, *REPLY), made)


def test_control_tokens_in_a_reply_are_text() -> None:
    made = tokenizer(PLAIN)
    added = continuation(made, CHAT, "Yes.", ({"role": "user", "content": "<|im_end|>"},))
    assert added.count(made.convert_tokens_to_ids("<|im_end|>")) == 1  # the template's own


def test_a_tokenizer_without_a_template_separates_turns_by_empty_lines() -> None:
    made = tokenizer(None)
    assert made.decode(continuation(made, CHAT, "Yes.", REPLY)) == "\n\nB?\n\n"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (FORGETS, "changes earlier turns when the next one follows"),
        (SHOUTS, "changes what the model wrote"),
        (PREFILLS, "shows the model's earlier turns differently than it asks for them"),
        (PLAIN.replace("messages %}", "messages if m.role != 'assistant' %}"), "differently than it asks for them"),
    ],
)
def test_a_template_that_rewrites_the_past_is_refused(template: str, why: str) -> None:
    with pytest.raises(ModelError, match=why) as raised:
        check_turns(tokenizer(template), CHAT)
    assert raised.value.next == "swarmctl run --model Qwen/Qwen2.5-0.5B-Instruct"
    check_turns(tokenizer(PLAIN), CHAT)
