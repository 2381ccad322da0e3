"""How many rows go through the model at a time: as many as fit into free memory, and fewer once it has run out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from transformers import PreTrainedModel

from hivemind_exp.config import Config
from hivemind_exp.errors import OutOfMemory
from hivemind_exp.foreign_text import visible
from hivemind_exp.journal.records import Manifest, TrainingRow
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
        self.longest: int | None = None
        """The most tokens of a row from others, such as a teacher, since memory ran out with a single row."""
        self.left_out = 0
        """Rows that were left out for this reason."""
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

    def without_longest(self, manifest: Manifest, ran_out: str) -> tuple[Manifest, str]:
        """Return a step without its longest rows from others, which don't fit even alone, and a sentence about it.

        Raises ``OutOfMemory`` if a row of the node's own is as long: its settings made it.
        """
        penalty = self._config.train.beta > 0
        computed = [row for row in manifest.rows if row.teaches or (penalty and row.kind.own)]
        longest = max(map(row_length, computed), default=0)
        out = [row for row in computed if row_length(row) == longest]
        if not out or any(row.kind.own for row in out):
            raise self._too_large(ran_out)
        self.longest = longest - 1
        left, _ = self.within_longest(manifest)
        kinds = visible(", ".join(sorted({row.kind for row in out})))
        return left, (
            f"{ran_out} ran out of memory with a single row of {longest} tokens, so {len(out)} from {kinds} are left "
            f"out of this step, and all of this length or more from others from now on. {self._shorter()}"
        )

    def within_longest(self, manifest: Manifest) -> tuple[Manifest, str]:
        """Return a step without rows from others for which memory did not suffice, and how many there were so far.

        The second value is empty if there were none, or since the number has not doubled.
        """
        if self.longest is None:
            return manifest, ""
        rows = tuple(row for row in manifest.rows if row.kind.own or row_length(row) <= self.longest)
        before, self.left_out = self.left_out, self.left_out + len(manifest.rows) - len(rows)
        text = (
            f"left {self.left_out} completions from others out of steps so far, because rows of more than "
            f"{self.longest} tokens do not fit into memory. {self._shorter()}"
        )
        return replace(manifest, rows=rows), text if self.left_out.bit_length() > before.bit_length() else ""

    def _shorter(self) -> str:
        generation = self._config.generation
        return (
            f"For shorter ones, lower generation.max_completion_tokens (now {generation.max_completion_tokens}) or "
            f"generation.max_prompt_tokens (now {generation.max_prompt_tokens})"
        )

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
