"""``local``: the node's own weights, on this machine."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hivemind_exp.config import GenerationConfig as Settings
from hivemind_exp.events import Emit, WarningEvent, discard
from hivemind_exp.models.device import free_memory
from hivemind_exp.models.out_of_memory import within_memory
from hivemind_exp.parallel.shares import even_range
from hivemind_exp.parallel.team import Team
from hivemind_exp.rollouts.types import Group, Prompt, Rollout, decode_completion
from hivemind_exp.round_progress import WorkProgress
from hivemind_exp.seeds import derive_seed
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.batch_size import BatchSize
from hivemind_exp.sources.conversations import Complete, Conversations
from hivemind_exp.sources.source import Ask, NodeParts, Source, WholeWeights
from hivemind_exp.stop import StopFlag
from hivemind_exp.tasks.base import Tasks

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, TextStreamer


@dataclass(frozen=True, slots=True)
class SharedBatch:
    """A batch that several processes complete together."""

    prompts: Sequence[Sequence[int]]
    """The token ids of all prompts."""
    rooms: Sequence[int]
    """The most tokens of each completion."""
    seed: int | None
    """None for greedy decoding."""
    size: int
    """How many completions each process generates at a time."""
    processes: int


@dataclass(eq=False)
class LocalSource(Source):
    """Samples from a model, on an NVIDIA card with a CUDA graph if the model allows it. Evaluation is greedy."""

    name = "local"
    kind = Kind.POLICY

    _model: PreTrainedModel
    _tokenizer: PreTrainedTokenizerBase
    _settings: Settings
    _stop: StopFlag
    _seed: int = 0
    _emit: Emit = discard
    _dtype: str = "float32"
    """The number format of the model's computation, if autocast converts its weights to it."""
    _tasks: Tasks | None = None
    """Needed for conversations with environments."""
    team: Team | None = None
    """The other processes that generate a part of each batch. None: this one generates all of it."""
    whole: WholeWeights = nullcontext
    """Gives the model its weights, if it has them only for a while."""

    def __post_init__(self) -> None:
        self._drawn: slice | None = None
        """If other processes generate the other rows of a batch: which of all rows' random numbers are this one's."""
        self._rows = 0
        """Then, the number of all rows."""
        self._size = BatchSize(self._model, self._settings)
        self._end_ids = end_ids(self._model, self._tokenizer)
        self._progress = WorkProgress(self._emit)
        self._counts = False
        """Whether the rows that end now are completions, and not turns of conversations."""

    def collect(self, ask: Ask) -> Iterator[list[Group]]:
        """Sample the empty slots. On a CPU, the same weights, stage and slots give the same completions."""
        together: dict[tuple[int, ...], list[Prompt]] = defaultdict(list)
        for prompt, places in ask.empty:
            together[places].append(prompt)
        run = ask.stage_run
        slots = sum(len(places) for _, places in ask.empty)
        self._progress.begin("generating completions", slots, run.round)
        try:
            yield from self._collect(ask, together)
        finally:
            self._progress.end()

    def _collect(self, ask: Ask, together: Mapping[tuple[int, ...], list[Prompt]]) -> Iterator[list[Group]]:
        run = ask.stage_run
        for places, prompts in sorted(together.items()):
            purpose = "generate" if places == tuple(range(ask.places.stop)) else f"generate {places}"
            if (run.stage, run.chunk) != ("answer", 0):
                purpose = f"{purpose} {run.stage} {run.chunk}"
            if ask.refill:
                purpose = f"{purpose} refill {ask.refill}"
            for number, some in enumerate(self._batches(prompts, len(places), ask.deadline)):
                seed = derive_seed(self._seed, f"{purpose} {number}" if number else purpose, run.round)
                made = self.generate(some, len(places), seed=seed)
                yield [Group(prompt, rows, places=places) for prompt, rows in zip(some, made, strict=True)]

    def _batches(self, prompts: Sequence[Prompt], count: int, deadline: float | None) -> Iterator[Sequence[Prompt]]:
        """Yield batches of prompts.

        Without a deadline, yield all prompts as one batch. With one, yield as many as ``generation.batch`` allows at a
        time; none after the deadline, except the first batch.
        """
        size = len(prompts) if deadline is None else max(1, self.batch_size(prompts, count) // count)
        for start in range(0, len(prompts), size):
            if start and deadline is not None and time.monotonic() >= deadline:
                return
            yield prompts[start : start + size]

    def batch_size(self, prompts: Sequence[Prompt], count: int = 1) -> int:
        """Return how many completions of prompts are generated at a time, with ``count`` completions per prompt."""
        return self._size.choose(len(prompts) * count, max((len(prompt.ids) for prompt in prompts), default=0))

    def generate(self, prompts: Sequence[Prompt], count: int, *, seed: int | None) -> list[tuple[Rollout, ...]]:
        """Return ``count`` samples per prompt. On a CPU, the same seed and weights give the same samples.

        ``seed``: None for greedy decoding. Raises ``StopRequested`` between two tokens.
        """
        rows = [prompt for prompt in prompts for _ in range(count)]
        rollouts = self._complete(rows, seed=seed)
        return [tuple(rollouts[i : i + count]) for i in range(0, len(rollouts), count)]

    def answer(self, prompts: Sequence[Prompt]) -> list[Rollout]:
        """Return the greedy completion of each prompt, for an evaluation."""
        self._progress.begin("evaluating", len(prompts))
        try:
            return self._complete(prompts, seed=None)
        finally:
            self._progress.end()

    def stream(self, prompt: Prompt, hear: Callable[[str], None], *, seed: int | None) -> Rollout:
        """Return one completion. Its text is also passed to ``hear``, piece by piece, as it is generated.

        ``seed``: None for greedy decoding. Raises ``StopRequested`` between two tokens.
        """
        from hivemind_exp.sources.generation import WordStreamer

        def aloud(prompts: Sequence[Prompt], rooms: Sequence[int], seed: int | None) -> list[Rollout]:
            if seed is not None:
                torch.manual_seed(seed)
            streamer = WordStreamer(self._tokenizer, hear)
            return self._batch(prompts, rooms, sample=seed is not None, streamer=streamer)

        with self._ready_to_generate():
            if prompt.question.turns:
                return self._conversations(aloud).play([prompt], seed=seed, hear=hear)[0]
            return aloud([prompt], [self._settings.max_completion_tokens], seed)[0]

    def _complete(self, prompts: Sequence[Prompt], *, seed: int | None) -> list[Rollout]:
        """Return a completion of each prompt; of one that begins a conversation, the conversation."""
        talks = [prompt for prompt in prompts if prompt.question.turns]
        others = [prompt for prompt in prompts if not prompt.question.turns]
        with self._ready_to_generate():
            self._counts = True
            completed = iter(self._turns(others, [self._settings.max_completion_tokens] * len(others), seed))
            self._counts = False
            played = iter(self._conversations(self._turns).play(talks, seed=seed) if talks else ())
        return [next(played if prompt.question.turns else completed) for prompt in prompts]

    def _conversations(self, complete: Complete) -> Conversations:
        assert self._tasks is not None
        most = self._settings.max_completion_tokens
        return Conversations(self._tokenizer, self._tasks, complete, self.name, most)

    def _turns(self, prompts: Sequence[Prompt], rooms: Sequence[int], seed: int | None) -> list[Rollout]:
        """Complete each prompt with at most ``rooms`` tokens."""
        rollouts: list[Rollout] = []
        while (start := len(rollouts)) < len(prompts):
            size = self.batch_size(prompts[start:])
            # With a graph, further prompts take the places of completions that have ended.
            count = len(prompts) if self._has_graph(max(rooms)) else size
            some, room = prompts[start : start + count], rooms[start : start + count]
            drawn = None if seed is None else derive_seed(seed, start)
            if self.team is None or len(some) == 1:
                if drawn is not None:
                    torch.manual_seed(drawn)
                made, ran_out = within_memory(partial(self._batch, some, room, sample=seed is not None, size=size))
            else:
                made, ran_out = self._batch_together(self.team, some, room, seed=drawn, size=size)
            if made is None:
                each = len(some) if self.team is None else math.ceil(len(some) / self.team.processes)
                what = self._size.shrink(min(size, each), str(ran_out))
                self._emit(WarningEvent(code="less_memory", message=what))
            else:
                rollouts += [self._cut(row, most) for row, most in zip(made, room, strict=True)]
                self._progress.add(len(made) if self._counts else 0)
        return rollouts

    def _cut(self, row: Rollout, most: int) -> Rollout:
        return row if len(row.ids) <= most else self._rollout(list(row.ids[:most]))

    def _batch_together(
        self, team: Team, prompts: Sequence[Prompt], rooms: Sequence[int], *, seed: int | None, size: int
    ) -> tuple[list[Rollout], None] | tuple[None, str]:
        """Complete prompts together with the other processes; return what ran out of memory instead."""
        ids = [prompt.ids for prompt in prompts]
        team.ask("generate", [ids, rooms, seed, size])
        batch = SharedBatch(ids, rooms, seed, size, team.processes)
        own, ran_out = within_memory(partial(self._share, batch, 0))
        answers = team.answers()
        ran_out = next((answer["ran_out"] for answer in answers if answer["ran_out"]), ran_out)
        if own is None or ran_out is not None:
            return None, str(ran_out)
        return [self._rollout(row) for rows in (own, *(answer["rows"] for answer in answers)) for row in rows], None

    def share(self, batch: SharedBatch, place: int) -> list[list[int]]:
        """Return the tokens of the completions that process ``place`` generates of a batch."""
        with self._ready_to_generate():
            return self._share(batch, place)

    def _share(self, batch: SharedBatch, place: int) -> list[list[int]]:
        prompts, rooms, seed, size = batch.prompts, batch.rooms, batch.seed, batch.size
        own = even_range(len(prompts), place, batch.processes)
        if not own:
            return []
        # If every process generates all of its completions at once, they are those that one process would generate.
        together = len(prompts) <= size * batch.processes
        if seed is not None:
            torch.manual_seed(seed if together else derive_seed(seed, f"process {place}"))
        if together:
            self._drawn, self._rows = slice(own.start, own.stop), len(prompts)
        try:
            width = max(map(len, prompts))
            mine, most = [prompts[i] for i in own], [rooms[i] for i in own]
            return self._tokens(mine, most, width, sample=seed is not None, size=size)
        finally:
            self._drawn = None

    def _batch(
        self,
        prompts: Sequence[Prompt],
        rooms: Sequence[int],
        *,
        sample: bool,
        size: int | None = None,
        streamer: TextStreamer | None = None,
    ) -> list[Rollout]:
        ids = [prompt.ids for prompt in prompts]
        rows = self._tokens(ids, rooms, max(map(len, ids)), sample=sample, size=size, streamer=streamer)
        return [self._rollout(row) for row in rows]

    def _has_graph(self, most: int) -> bool:
        from hivemind_exp.sources.graph_decoding import can_decode

        return can_decode(self._model, most)

    def _tokens(
        self,
        prompts: Sequence[Sequence[int]],
        rooms: Sequence[int],
        width: int,
        *,
        sample: bool,
        size: int | None = None,
        streamer: TextStreamer | None = None,
    ) -> list[list[int]]:
        """Return the tokens of each prompt's completion, with what follows its end.

        ``rooms``: the most tokens of each; without a graph, rows can be longer. ``width``: of padded prompts. ``size``:
        how many completions are generated at a time, with a graph; None: all.
        """
        from hivemind_exp.sources.generation import draw_with, stop_on
        from hivemind_exp.sources.graph_decoding import decode

        fill = self._tokenizer.pad_token_id
        ids = torch.full((len(prompts), width), fill)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        ids, mask = ids.to(self._model.device), mask.to(self._model.device)
        if streamer is None and self._has_graph(max(rooms)):
            choose = self._sample if sample else partial(torch.argmax, dim=-1)
            made = decode(
                self._model,
                ids,
                mask,
                limits=rooms,
                choose=choose,
                end_ids=self._end_ids,
                fill=fill,
                rows=size,
                check=self._stop.check,
                look=lambda ended: self._progress.look(lambda: self._count(ended())),
            )
            rows: list[list[int]] = made.tolist()
            return rows
        together = sample and self._drawn is not None

        def look(made: Tensor) -> None:
            self._progress.look(lambda: self._count(int(torch.isin(made[:, width:], ends).any(1).sum())))

        ends = torch.tensor(self._end_ids, device=ids.device)
        output = self._model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=self._generation_config(sample=sample and not together, most=max(rooms)),
            logits_processor=draw_with(self._chances) if together else None,
            stopping_criteria=stop_on(self._stop, look),
            streamer=streamer,
        )
        self._stop.check()
        generated: list[list[int]] = output[:, width:].tolist()
        return generated

    def _count(self, ended: int) -> int:
        """Return how many completions of a batch have ended, if ``ended`` of this process's rows have."""
        return 0 if not self._counts else ended * (1 if self.team is None else self.team.processes)

    def _sample(self, logits: Tensor) -> Tensor:
        return self._chances(logits).argmax(dim=-1)

    def _chances(self, logits: Tensor) -> Tensor:
        """Return the tokens' probabilities divided by noise: the largest is drawn. Both are (B, V).

        As torch.multinomial draws, but without its checks, which wait for the device: exponential noise. If other
        processes have rows of the same batch, each draws the noise of all rows, so that a row gets the same tokens
        whoever generates it.
        """
        chances = torch.softmax(logits.float() / self._settings.temperature, dim=-1)
        if self._drawn is None:
            return chances / torch.empty_like(chances).exponential_()
        return chances / chances.new_empty(self._rows, chances.size(1)).exponential_()[self._drawn]

    def _rollout(self, ids: list[int]) -> Rollout:
        end = next((i for i, token in enumerate(ids) if token in self._end_ids), None)
        kept = ids if end is None else ids[: end + 1]
        text = decode_completion(self._tokenizer, kept)
        return Rollout(Kind.POLICY, self.name, text, tuple(kept), truncated=end is None)

    def _generation_config(self, *, sample: bool, most: int) -> GenerationConfig:
        from transformers import GenerationConfig

        # The loss scores softmax(logits / T), so nothing else may change the sampling distribution.
        shape: dict[str, Any] = {"do_sample": False}
        if sample:
            shape = {"do_sample": True, "temperature": self._settings.temperature, "top_k": 0, "top_p": 1.0}
        return GenerationConfig(
            max_new_tokens=most,
            pad_token_id=self._tokenizer.pad_token_id,
            eos_token_id=self._end_ids,
            disable_compile=True,
            **shape,
        )

    @contextmanager
    def _ready_to_generate(self) -> Iterator[None]:
        """Turn off what only training needs, and convert weights and merge adapters once instead of for every token."""
        from hivemind_exp.sources.generation_weights import generation_weights

        model = self._model
        checkpointing = bool(model.is_activation_checkpointing)
        if checkpointing:
            model.activation_checkpointing_disable()
        model.eval()
        try:
            with torch.no_grad(), self.whole():
                # On a CPU, the same weights and seed give the same completions as in earlier versions, to the last bit.
                room = free_memory(str(model.device)) if self._has_graph(self._settings.max_completion_tokens) else None
                with generation_weights(model, getattr(torch, self._dtype), room=room):
                    yield
        finally:
            if checkpointing:
                model.activation_checkpointing_enable()


def build(parts: NodeParts) -> LocalSource | None:
    """Return the source that generates on this machine; None for a relay, which loads no model."""
    if parts.model is None or parts.tokenizer is None:
        return None
    config = parts.config
    seed, emit, tasks = config.node.seed, parts.emit, parts.tasks
    return LocalSource(
        *(parts.model, parts.tokenizer, config.generation, parts.stop, seed, emit, parts.dtype, tasks),
        team=parts.team,
        whole=parts.whole,
    )


def end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return every token id that ends a completion. Models may declare an end of turn besides the tokenizer's."""
    declared = model.generation_config.eos_token_id
    ids = [] if declared is None else [declared] if isinstance(declared, int) else list(declared)
    return list(dict.fromkeys([tokenizer.eos_token_id, *ids]))
