"""Peers' text under this node's tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hivemind_exp.rollouts.types import Prompt, encode_completion
from hivemind_exp.tasks.base import Question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class PeerTexts:
    """This node's tokenizer, as far as peers' text needs it."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        build_prompt: Callable[[Question], Prompt],
        *,
        longest_prompt: int,
    ) -> None:
        """``longest_prompt``: tokens of a prompt that this node takes."""
        self._tokenizer = tokenizer
        self._build_prompt = build_prompt
        self._longest_prompt = longest_prompt
        self._special = frozenset(tokenizer.all_special_ids)
        self._unknown = tokenizer.unk_token_id

    def prompt(self, question: Question) -> Prompt | None:
        """Return the prompt that asks a question; None where it is longer than this node takes."""
        prompt = self._build_prompt(question)
        return prompt if len(prompt.ids) <= self._longest_prompt else None

    def ids(self, text: str, cut: bool) -> tuple[int, ...] | None:
        """Return the token ids of a completion; None where the text names control tokens.

        A completion is decoded without those, so in text they are somebody's attempt to end the turn and begin
        another.
        """
        found = encode_completion(self._tokenizer, text, cut)
        said = found if found[-1] != self._tokenizer.eos_token_id else found[:-1]
        return None if any(token in self._special and token != self._unknown for token in said) else found

    def text(self, ids: Sequence[int]) -> str | None:
        """Return the text of a completion's token ids; None where some are no tokens of this node, or control ones
        before the end."""
        if not all(0 <= token < len(self._tokenizer) for token in ids):
            return None
        if any(token in self._special and token != self._unknown for token in ids[:-1]):
            return None
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))
