"""Adapt a tokenizer to swarmctl's chats: an instruction as the system turn, and a question as the user's turn.

Chat templates differ: some refuse system turns, some drop them, some take a list of parts as content. This module
adapts the template itself. The template is saved with each checkpoint, so a server that loads the checkpoint builds the
same prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hivemind_exp.errors import ModelError
from hivemind_exp.foreign_text import foreign, visible
from hivemind_exp.rollouts.types import Message, decode_completion, encode_completion, encode_literally, literal

if TYPE_CHECKING:  # the command line imports this module with the games
    from transformers import PreTrainedTokenizerBase

OTHER_MODEL = "swarmctl run --model Qwen/Qwen2.5-0.5B-Instruct"
_FOLD = (
    "{%- if messages[0]['role'] == 'system' -%}{%- set messages = [{'role': 'user', 'content': messages[0]['content'] "
    "+ '\\n\\n' + messages[1]['content']}] + messages[2:] -%}{%- endif -%}"
)
"""Moves the instruction to the beginning of the question."""
_PARTS = (
    "{%- set folded = namespace(messages=[]) -%}{%- for message in messages -%}{%- set folded.messages = "
    "folded.messages + [dict(message, content=[{'type': 'text', 'text': message['content']}])] -%}{%- endfor -%}"
    "{%- set messages = folded.messages -%}"
)
"""Turns each content into a list of one part."""
_SWITCHES = ("enable_thinking", "thinking")
"""The template variables that turn thinking on or off."""
_INSTRUCTION, _QUESTION = "Think between <think> and </think>, answer between <answer> and </answer>.", "What is 2 + 3?"
_CHAT: tuple[Message, ...] = ({"role": "system", "content": _INSTRUCTION}, {"role": "user", "content": _QUESTION})
_COMPLETION = "<think>2 + 3</think>\n<answer>5</answer>"


def encode(chat: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return a chat's token ids, ready for the model's turn.

    Only the template's own control tokens are encoded as such: in a message, ``<|im_end|>`` is text.
    """
    chat = [{"role": message["role"], "content": literal(tokenizer, message["content"])} for message in chat]
    if tokenizer.chat_template is None:
        text = "".join(message["content"] + "\n\n" for message in chat)
        return list(encode_literally(tokenizer, text, add_special_tokens=True))
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return list(encode_literally(tokenizer, text))


def fit(tokenizer: PreTrainedTokenizerBase, name: str, thinking: bool | None) -> None:
    """Adapt the chat template of the model ``name``, so that prompts contain instruction and question.

    ``thinking``: whether the model thinks; None: the template's default. Raises ``ModelError`` if the template has no
    switch for this, if no adaptation helps, or if the tokenizer loses an answer's tags.
    """
    from jinja2 import TemplateError

    from hivemind_exp.models.tiny import CHAT_TEMPLATE  # imports torch, which is slow

    template = _template(tokenizer, name)
    if template == CHAT_TEMPLATE:
        return  # a checkpoint of the tiny model, whose warm-up taught it the instruction
    reason = "its prompts lack the question or the instruction"
    for change in ("", _FOLD, _PARTS, _FOLD + _PARTS):
        tokenizer.chat_template = None if template is None else change + template
        try:
            ids = encode(_CHAT, tokenizer)
        except (TemplateError, TypeError, ValueError) as error:
            reason = foreign(str(error).strip() or type(error).__name__)
            continue
        text = "".join(str(tokenizer.decode(ids)).split())
        if "".join(_QUESTION.split()) in text.partition("".join(_INSTRUCTION.split()))[2]:
            break
    else:
        what = "tokenizer" if template is None else "chat template"
        raise ModelError(f"the {what} of {name} cannot be used: {reason}", next=OTHER_MODEL)
    if thinking is not None:
        set_thinking(tokenizer, name, thinking)
    back = decode_completion(tokenizer, encode_completion(tokenizer, _COMPLETION, True))
    if back.split() != _COMPLETION.split():
        raise ModelError(
            f"the tokenizer of {name} does not keep the tags of an answer: {_COMPLETION!r} becomes {foreign(back)}",
            next=OTHER_MODEL,
        )


def set_thinking(tokenizer: PreTrainedTokenizerBase, name: str, thinking: bool) -> None:
    """Turn thinking on or off in the chat template. Raises ``ModelError`` if it has no switch for this."""
    template = thinking_template(tokenizer, thinking)
    if template is None:
        raise ModelError(
            f"model.thinking is set, but the chat template of {name} has no switch for it; remove the setting",
            next="swarmctl profiles show --origin",
        )
    tokenizer.chat_template = template


def thinking_template(tokenizer: PreTrainedTokenizerBase, thinking: bool) -> str | None:
    """Return the chat template with thinking on or off; None if it has no switch for this."""
    for switch in _SWITCHES if tokenizer.chat_template else ():
        on, off = (
            tokenizer.apply_chat_template(list(_CHAT), tokenize=False, add_generation_prompt=True, **{switch: value})
            for value in (True, False)
        )
        if on != off:
            return f"{{%- set {switch} = {str(thinking).lower()} -%}}{tokenizer.chat_template}"
    return None


def _template(tokenizer: PreTrainedTokenizerBase, name: str) -> str | None:
    """Return the template for plain chats; None if there is none. Raises ``ModelError`` if it is unclear which."""
    found = tokenizer.chat_template
    if not isinstance(found, dict):
        return None if found is None else str(found)
    if "default" in found:
        return str(found["default"])
    if len(set(found.values())) == 1:
        return str(next(iter(found.values())))
    names = ", ".join(sorted(found))
    raise ModelError(
        f"{name} has several chat templates ({visible(names)}) and none named default; copy the one to use to "
        "chat_template.jinja in a copy of the model's directory",
        next=OTHER_MODEL,
    )
