"""The prompts and rows of a step, and what it costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.gpu.models import G, Node, Work, synchronize
from hivemind_exp.journal.records import Manifest, TrainingRow
from hivemind_exp.rollouts.types import Prompt, Rollout
from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.base import Question

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Cost:
    """What one repetition cost."""

    seconds: float
    peak: float
    """Bytes allocated at most; NaN on a CPU."""
    tokens: int = 0


def measured(work: Work, run: Callable[[], int]) -> Cost:
    """Return the cost of ``run``, which returns a number of tokens."""
    gpu = work.device.startswith("cuda")
    synchronize(work)
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    tokens = run()
    synchronize(work)
    seconds = time.perf_counter() - begun
    return Cost(seconds, torch.cuda.max_memory_allocated() if gpu else float("nan"), tokens)


def prompt_lengths(work: Work, seed: int) -> list[int]:
    """Return the lengths of a step's prompts, evenly distributed. Always includes the longest."""
    shortest, longest = work.prompts
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(shortest, longest + 1, (work.rows // G,), generator=generator).tolist()
    return [longest, *drawn[1:]]


def prompts(work: Work, seed: int) -> list[Prompt]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number, length in enumerate(prompt_lengths(work, seed)):
        ids = tuple(torch.randint(3, 100, (length,), generator=generator).tolist())
        made.append(Prompt(Question("t", "train", seed, number, "q", {}, f"{seed} {number}", "k"), "answer", (), ids))
    return made


def spread(work: Work, shortest: int = 32) -> list[int]:
    """Return completions' lengths, evenly spread from ``shortest`` to the longest, in a shuffled order."""
    even = torch.linspace(min(shortest, work.tokens), work.tokens, work.rows).round().int()
    order = torch.randperm(work.rows, generator=torch.Generator().manual_seed(3))
    lengths: list[int] = even[order].tolist()
    return lengths


def generate(node: Node, work: Work, seed: int) -> list[tuple[Prompt, tuple[Rollout, ...]]]:
    asked = prompts(work, seed)
    return list(zip(asked, node.source.generate(asked, G, seed=seed), strict=True))


def train(node: Node, step: int, groups: list[tuple[Prompt, tuple[Rollout, ...]]], micro_batch: int | None) -> Manifest:
    """Take a step on groups whose rewards alternate, and return how. ``micro_batch``: None: as a node would."""
    rows = tuple(
        TrainingRow(Kind.POLICY, "local", "t", number, prompt.ids, rollout.ids, "", 1.0, 1.0 if index % 2 else -1.0, 0)
        for number, (prompt, rollouts) in enumerate(groups)
        for index, rollout in enumerate(rollouts)
    )
    tokens = sum(len(row.completion_ids) for row in rows)
    size = micro_batch or node.step_trainer.micro_batch(rows)
    taken = [Manifest(step, step, step, size, rows, tokens=(tokens, 0))]
    node.step_trainer.step(taken[0], shrunk=lambda changed, _: taken.append(changed))
    node.step_trainer.free_gradients()
    return taken[-1]


def made_up(work: Work, seed: int) -> list[tuple[Prompt, tuple[Rollout, ...]]]:
    """Return groups of random completions of the full length."""
    generator = torch.Generator().manual_seed(seed)

    def completion() -> Rollout:
        ids = torch.randint(3, 100, (work.tokens,), generator=generator).tolist()
        return Rollout(Kind.POLICY, "local", "", tuple(ids), False)

    return [(prompt, tuple(completion() for _ in range(G))) for prompt in prompts(work, seed)]
