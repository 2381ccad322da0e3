"""What ``local`` passes to transformers' ``generate``. Apart from it, because transformers takes seconds to import."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TextStreamer,
)

from hivemind_exp.rollouts.types import control_ids
from hivemind_exp.stop import StopFlag


class _StopAsked(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, stop: StopFlag, look: Callable[[Tensor], None]) -> None:
        self._stop, self._look = stop, look

    def __call__(self, input_ids: Tensor, *_: Any, **__: Any) -> Tensor:
        self._look(input_ids)
        return torch.full((input_ids.size(0),), self._stop.is_set(), dtype=torch.bool, device=input_ids.device)


def stop_on(stop: StopFlag, look: Callable[[Tensor], None] = lambda _: None) -> StoppingCriteriaList:
    """Return the criterion that ends a generation after the next token, once a stop was requested.

    ``look``: called at every token with the tokens (B, T) so far, prompts included.
    """
    return StoppingCriteriaList([_StopAsked(stop, look)])


class _Draw(LogitsProcessor):  # type: ignore[misc]
    def __init__(self, chances: Callable[[Tensor], Tensor]) -> None:
        self._chances = chances

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - as it is called
        return self._chances(scores)


def draw_with(chances: Callable[[Tensor], Tensor]) -> LogitsProcessorList:
    """Return what makes greedy decoding draw tokens: ``chances`` turns logits (B, V) into values to take the largest
    of."""
    return LogitsProcessorList([_Draw(chances)])


class WordStreamer(TextStreamer):  # type: ignore[misc]
    """Passes on text word by word, without control tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, hear: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, clean_up_tokenization_spaces=False)
        self._control, self._hear = control_ids(tokenizer), hear

    def put(self, value: Tensor) -> None:
        if self.next_tokens_are_prompt or int(value) not in self._control:
            super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: ARG002 - as it is called
        if text:
            self._hear(text)
