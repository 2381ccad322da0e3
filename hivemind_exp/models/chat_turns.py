"""Continue a conversation token by token: what follows a turn that the model sampled, without a change to the past.

The model's tokens stay as it sampled them. Only what the chat template adds for the next turn is encoded and appended.
So the whole conversation is what the model saw and wrote, and can be learned from as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hivemind_exp.errors import ModelError
from hivemind_exp.models.chat_format import render
from hivemind_exp.models.model_location import OTHER_MODEL
from hivemind_exp.rollouts.types import control_ids, encode_literally, literal

if TYPE_CHECKING:  # the command line imports this package
    from transformers import PreTrainedTokenizerBase

_PROBE = "<think>The first part.</think>\nThe second part."


def continuation(
    tokenizer: PreTrainedTokenizerBase,
    chat: Sequence[Mapping[str, str]],
    text: str,
    messages: Sequence[Mapping[str, str]],
) -> tuple[int, ...]:
    """Return the token ids that follow the model's turn, up to the start of its next one.

    ``chat``: the conversation before the model's turn ``text``, whose tokens end with an end of turn. ``messages``:
    what the environment replied. Raises ``ModelError`` if the template shows earlier turns differently than the
    model saw and wrote them.
    """
    said = [*chat, {"role": "assistant", "content": text}]
    opening = render(chat, tokenizer)
    before = render(said, tokenizer, ask=False)
    after = render([*said, *messages], tokenizer)
    if not before.startswith(opening):
        raise _rewritten("shows the model's earlier turns differently than it asks for them")
    if not after.startswith(before):
        raise _rewritten("changes earlier turns when the next one follows, such as by removing their reasoning")
    body, own = before[len(opening) :], literal(tokenizer, text).strip()
    start = body.find(own)
    if start < 0 or body[:start].strip():
        raise _rewritten("changes what the model wrote")
    tail = body[start + len(own) :]
    return encode_literally(tokenizer, _without_end(tokenizer, tail) + after[len(before) :])


def check_turns(tokenizer: PreTrainedTokenizerBase, chat: Sequence[Mapping[str, str]]) -> None:
    """Raise ``ModelError`` if conversations that begin with ``chat`` cannot be continued token by token."""
    continuation(tokenizer, chat, _PROBE, ({"role": "user", "content": "Go on."},))


def _without_end(tokenizer: PreTrainedTokenizerBase, tail: str) -> str:
    """Return what a template writes after a turn, without the end of turn, which the model has sampled."""
    for end in tokenizer.convert_ids_to_tokens(sorted(control_ids(tokenizer))):
        if end and tail.lstrip().startswith(end):
            return tail.lstrip().removeprefix(end)
    return tail


def _rewritten(what: str) -> ModelError:
    return ModelError(
        f"the model's chat template {what}, so conversations cannot be learned token by token. Choose a model whose "
        "template keeps earlier turns, or an environment with one turn",
        next=OTHER_MODEL,
    )
