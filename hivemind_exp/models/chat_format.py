"""Adapt a tokenizer to swarmctl's chats: an instruction as the system turn, and a question as the user's turn.

Chat templates differ: some refuse system turns, some drop them, some take a list of parts as content. This module
adapts the template itself. The template is saved with each checkpoint, so a server that loads the checkpoint builds the
same prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hivemind_exp.cpu_limit import CpuLimitReached, cpu_limit
from hivemind_exp.errors import ModelError
from hivemind_exp.foreign_text import foreign, visible
from hivemind_exp.models.model_location import OTHER_MODEL
from hivemind_exp.models.template_trial import trial
from hivemind_exp.rollouts.types import Message, decode_completion, encode_completion, encode_literally, literal

if TYPE_CHECKING:  # the command line imports this module with the games
    from transformers import PreTrainedTokenizerBase

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
_EMPTY = (
    "{%- if messages[0]['role'] != 'system' -%}{%- set messages = [{'role': 'system', 'content': ''}] + messages -%}"
    "{%- endif -%}"
)
"""Adds the system turn that some templates need."""
_MERGE = (
    "{%- set turns = messages[1:] if messages[0]['role'] == 'system' else messages -%}{%- set messages = "
    "messages[:messages|length - turns|length] + [{'role': 'user', 'content': turns|map(attribute='content')"
    "|join('\\n\\n')}] -%}"
)
"""Moves examples into the question's turn."""
_CHANGES = ("", _FOLD, _PARTS, _FOLD + _PARTS, _EMPTY, _EMPTY + _PARTS)
_SWITCHES = ("enable_thinking", "thinking")
"""The template variables that turn thinking on or off."""
_INSTRUCTION, _QUESTION = "Think between <think> and </think>, answer between <answer> and </answer>.", "What is 2 + 3?"
_CHAT: tuple[Message, ...] = ({"role": "system", "content": _INSTRUCTION}, {"role": "user", "content": _QUESTION})
_EXAMPLE: tuple[Message, ...] = (
    {"role": "user", "content": "What is 1" + " + 1" * 250 + "?"},
    {"role": "assistant", "content": "<answer>251</answer>"},
)
_CHATS = (_CHAT, _CHAT[1:], (*_CHAT[:1], *_EXAMPLE, *_CHAT[1:]), (*_EXAMPLE, *_CHAT[1:]))
"""Chats as in all prompt styles. Templates that cannot show the first one are refused."""
_FIT_S, _ENCODE_S = 30.0, 10.0
"""Most CPU time that a template may use while it is adapted, which takes half a second, and for one prompt."""
_ENDLESS = "takes too long to build a prompt"
_HARMLESS: set[str] = set()
"""Templates that were tried out."""
_LACKS = "its prompts lack the question or the instruction"
_COMPLETION = "<think>2 + 3</think>\n<answer>5</answer>"


def encode(chat: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return a chat's token ids, ready for the model's turn.

    Only the template's own control tokens are encoded as such: in a message, ``<|im_end|>`` is text. Raises
    ``ModelError`` if the template refuses the chat or takes too long.
    """
    try:
        with cpu_limit(_ENCODE_S):
            return _encode(chat, tokenizer)
    except CpuLimitReached as error:
        raise ModelError(f"the model's chat template {_ENDLESS}", next=OTHER_MODEL) from error


def render(chat: Sequence[Mapping[str, str]], tokenizer: PreTrainedTokenizerBase, *, ask: bool = True) -> str:
    """Return a chat as text for ``encode_literally``. ``ask``: ready for the model's turn.

    Raises ``ModelError`` if the template refuses the chat or takes too long.
    """
    try:
        with cpu_limit(_ENCODE_S):
            return _render(chat, tokenizer, ask=ask)
    except CpuLimitReached as error:
        raise ModelError(f"the model's chat template {_ENDLESS}", next=OTHER_MODEL) from error


def _encode(chat: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    text = _render(chat, tokenizer)
    return list(encode_literally(tokenizer, text, add_special_tokens=tokenizer.chat_template is None))


def _render(chat: Sequence[Mapping[str, str]], tokenizer: PreTrainedTokenizerBase, *, ask: bool = True) -> str:
    chat = [{"role": message["role"], "content": literal(tokenizer, message["content"])} for message in chat]
    if tokenizer.chat_template is None:
        return "".join(message["content"] + "\n\n" for message in chat)
    try:
        return str(tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=ask))
    except Exception as error:  # a template is a program
        reason = foreign(str(error).strip() or type(error).__name__)
        raise ModelError(f"the model's chat template refuses a prompt: {reason}", next=OTHER_MODEL) from error


def fit(tokenizer: PreTrainedTokenizerBase, name: str, thinking: bool | None) -> None:
    """Adapt the chat template of the model ``name``, so that prompts contain instruction and question.

    ``thinking``: whether the model thinks; None: the template's default. Raises ``ModelError`` if the template has no
    switch for this, if no adaptation helps, if it takes too long, or if the tokenizer loses an answer's tags.
    """
    try:
        with cpu_limit(_FIT_S):
            _try_out(tokenizer, name)
            _fit(tokenizer, name, thinking)
    except CpuLimitReached as error:
        raise ModelError(f"the chat template of {name} {_ENDLESS}", next=OTHER_MODEL) from error


def _try_out(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Build prompts where the template can do no harm. Raises ``ModelError`` if that needs too much time or memory."""
    template = _template(tokenizer, name)

    def render() -> None:
        for chat in _CHATS:
            try:
                tokenizer.apply_chat_template(
                    list(chat), chat_template=template, tokenize=False, add_generation_prompt=True
                )
            except MemoryError:
                raise
            except Exception:  # noqa: BLE001 - the template refuses this chat, which ``_fit`` finds out
                continue

    if template is not None and template not in _HARMLESS:
        if (problem := trial(render, math.ceil(_FIT_S))) is not None:
            raise ModelError(f"the chat template of {name} {problem} to build a prompt", next=OTHER_MODEL)
        _HARMLESS.add(template)


def _fit(tokenizer: PreTrainedTokenizerBase, name: str, thinking: bool | None) -> None:
    from hivemind_exp.models.tiny import CHAT_TEMPLATE  # imports torch, which is slow

    template = _template(tokenizer, name)
    if template == CHAT_TEMPLATE:
        return  # a checkpoint of the tiny model, whose warm-up taught it the instruction
    changes = (*_CHANGES, *(_MERGE + change for change in _CHANGES)) if template else ("",)
    reasons: list[str | None] = []
    best = ("", 0)
    for change in changes:
        tokenizer.chat_template = None if template is None else change + template
        lost = [_lost(chat, tokenizer) for chat in _CHATS]
        shown = 0 if lost[0] else lost.count(None)
        reasons.append(lost[0])
        best = (change, shown) if shown > best[1] else best
        if shown == len(_CHATS):
            break
    if not best[1]:
        what = "tokenizer" if template is None else "chat template"
        why = _LACKS if _LACKS in reasons else reasons[0]
        raise ModelError(f"the {what} of {name} cannot be used: {why}", next=OTHER_MODEL)
    tokenizer.chat_template = None if template is None else best[0] + template
    if thinking is not None:
        set_thinking(tokenizer, name, thinking)
    back = decode_completion(tokenizer, encode_completion(tokenizer, _COMPLETION, True))
    if back.split() != _COMPLETION.split():
        raise ModelError(
            f"the tokenizer of {name} does not keep the tags of an answer: {_COMPLETION!r} becomes {foreign(back)}",
            next=OTHER_MODEL,
        )


def _lost(chat: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Return why a chat cannot be asked: its prompt cannot be built, or lacks some of it. None if it can."""
    try:
        text = "".join(str(tokenizer.decode(_encode(chat, tokenizer))).split())
    except Exception as error:  # noqa: BLE001 - a template is a program
        return foreign(str(error.__cause__ or error).strip() or type(error).__name__)
    for message in chat:
        _, found, text = text.partition("".join(message["content"].split()))
        if not found:
            return _LACKS
    return None


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
        try:
            on, off = (
                tokenizer.apply_chat_template(
                    list(_CHAT), tokenize=False, add_generation_prompt=True, **{switch: value}
                )
                for value in (True, False)
            )
        except Exception:  # noqa: BLE001 - a template is a program, and refuses one of the values
            continue
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
