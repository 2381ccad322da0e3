"""How many rows go through the model at a time: as many as fit into free memory, and fewer once it has run out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from transformers import PreTrainedModel

from hivemind_exp.config import Config
from hivemind_exp.errors import OutOfMemory
from hivemind_exp.journal.records import TrainingRow
from hivemind_exp.models.counting import count_parameters
from hivemind_exp.models.device import free_memory
from hivemind_exp.models.memory import AUTO_MICRO_BATCH, SPARE, NodeMemory, Shape

Say = Callable[[str], None]


class MicroBatches:
    """Chooses the micro-batches of one model's steps."""

    def __init__(
        self, policy: PreTrainedModel, config: Config, device: str, *, half: bool, fused: bool = False
    ) -> None:
        """``half``, ``fused``: as for ``NodeMemory``."""
        self._policy, self._config, self._device = policy, config, device
        self._setting = config.train.micro_batch
        shape = Shape.read(policy.config.to_dict(), count_parameters(policy))
        self._memory = None if shape is None else NodeMemory(config, shape, half=half, fused=fused)
        self.limit: int | None = None
        """The largest micro-batch since memory ran out."""
        if config.model.gradient_checkpointing:
            # transformers does this in ``train()``, which is not called here.
            policy.activation_checkpointing_enable()

    def choose(self, rows: Sequence[TrainingRow], *, new_optimizer: bool, say: Say) -> int:
        """Return how many of a step's rows go through the model at a time.

        Recomputes activations from now on if only very few rows fit otherwise, and says so. On a CPU, the same settings
        give the same number. ``new_optimizer``: its moments are not allocated yet.
        """
        size = self._setting
        if size == "auto":
            size = self._fitting(rows, say, new_optimizer=new_optimizer)
        return self.allowed(size)

    def allowed(self, size: int) -> int:
        """Return ``size``, or the largest size since memory ran out if that is smaller."""
        return size if self.limit is None else min(size, self.limit)

    def _fitting(self, rows: Sequence[TrainingRow], say: Say, *, new_optimizer: bool) -> int:
        free = free_memory(self._device)
        if free is None or self._memory is None or not rows:
            return AUTO_MICRO_BATCH
        room = free * SPARE - (self._memory.optimizer if new_optimizer else 0)
        length = max(map(row_length, rows))
        scored = max(len(row.completion_ids) for row in rows)
        already = bool(self._policy.is_activation_checkpointing)
        size, recompute = self._memory.choose_training(room, len(rows), length, scored, checkpointing=already)
        if recompute and not already:
            self._recompute()
            say(
                f"only a few rows of up to {length} tokens fit into the free memory, so activations are recomputed "
                "from now on (model.gradient_checkpointing = true)"
            )
        return size

    def shrink(self, size: int, ran_out: str) -> tuple[int, str]:
        """Return the size with which to repeat a step of ``size`` rows at a time, and a sentence about it.

        First recomputes activations, then halves the size. Raises ``OutOfMemory`` if neither is possible.
        """
        what = f"{ran_out} ran out of memory in a step with {size} rows at a time, so the step is repeated"
        if not self._policy.is_activation_checkpointing and self._policy.supports_gradient_checkpointing:
            self._recompute()
            return size, f"{what}. Activations are recomputed from now on (model.gradient_checkpointing = true)"
        if size > 1:
            self.limit = size // 2
            return self.limit, f"{what} with {self.limit}, the limit from now on (train.micro_batch = {self.limit})"
        raise self._too_large(ran_out)

    def _recompute(self) -> None:
        self._policy.activation_checkpointing_enable()

    def _too_large(self, ran_out: str) -> OutOfMemory:
        config, node = self._config, self._config.node.name
        half = max(1, config.generation.max_completion_tokens // 2)
        adapters = "" if config.model.lora else "train adapters in a new node (--set model.lora=true), "
        return OutOfMemory(
            f"{ran_out} ran out of memory in a step with a single row at a time and recomputed activations; generate "
            f"shorter completions, {adapters}use a smaller model in a new node, or free memory",
            next=f"swarmctl run --node {node} --set generation.max_completion_tokens={half}",
        )


def row_length(row: TrainingRow) -> int:
    """Return a row's tokens."""
    return len(row.prompt_ids) + len(row.completion_ids)


def split(rows: list[TrainingRow], size: int) -> Iterator[list[TrainingRow]]:
    """Yield rows in micro-batches. Several are sorted by length, because padding costs time."""
    if len(rows) > size:
        rows = sorted(rows, key=row_length)
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
