"""How many completions are generated at a time: as many as fit into free memory, and fewer once it has run out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hivemind_exp.config import GenerationConfig
from hivemind_exp.errors import OutOfMemory
from hivemind_exp.models.counting import count_parameters
from hivemind_exp.models.device import free_memory
from hivemind_exp.models.memory import AUTO_BATCH, SPARE, Shape, choose_generation

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class BatchSize:
    """Chooses the batches in which one model generates."""

    def __init__(self, model: PreTrainedModel, settings: GenerationConfig) -> None:
        self._model, self._settings = model, settings
        self.limit: int | None = None
        """The largest batch since memory ran out."""

    def choose(self, rows: int, prompt: int) -> int:
        """Return how many of ``rows`` completions to generate at a time. ``prompt``: the longest prompt's length.

        On a CPU, the same settings give the same number.
        """
        size = self._settings.batch
        if size == "auto":
            size = self._fitting(rows, prompt)
        return size if self.limit is None else min(size, self.limit)

    def _fitting(self, rows: int, prompt: int) -> int:
        device, model = str(self._model.device), self._model
        free, shape = free_memory(device), Shape.read(model.config.to_dict(), count_parameters(model))
        if free is None or shape is None:
            return AUTO_BATCH
        width = model.dtype.itemsize
        length = prompt + self._settings.max_completion_tokens
        return choose_generation(shape, free * SPARE, rows, prompt, length, width=width)

    def shrink(self, size: int, ran_out: str) -> str:
        """Halve the batches from now on, and return a sentence about it. Raises ``OutOfMemory`` after one row."""
        if size == 1:
            half = max(1, self._settings.max_completion_tokens // 2)
            raise OutOfMemory(
                f"{ran_out} ran out of memory while a single completion was generated; generate shorter completions "
                f"(generation.max_completion_tokens = {half}), use a smaller model in a new node, or free memory",
                next=f"swarmctl doctor --set generation.max_completion_tokens={half}",
            )
        self.limit = size // 2
        return (
            f"{ran_out} ran out of memory with {size} completions at a time; they are generated again with "
            f"{self.limit}, the limit from now on (generation.batch = {self.limit})"
        )
