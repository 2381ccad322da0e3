"""Measure what a step costs this machine when completions are generated locally and when an API generates them.

Both cases use the same rows and the same training. For each step, measures the seconds in which the device works
(generation and training, each between synchronizations), this process's CPU seconds, and peak memory. The API is a
server in a separate process. It has no model, because generation would not happen on this machine. Prints medians and
ratios.

    python -m benchmarks.offload_local_cost
    python -m benchmarks.offload_local_cost --shape qwen2.5-0.5b --device cuda --groups 8 --tokens 256
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch

from benchmarks.train_step import SHAPES, make_model, synchronise
from hivemind_exp.config import Config
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Manifest, TrainingRow
from hivemind_exp.models.tiny import build_tokenizer
from hivemind_exp.offload.api.dialect import SamplingParams
from hivemind_exp.offload.prices import Price
from hivemind_exp.rollouts.types import Prompt, Rollout
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.stop import StopFlag
from hivemind_exp.tasks.base import Question
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer
from tests.support.engine_rig import SWARM, endpoint, engine, order
from tests.support.fake_api.remote import api_process

G = 8
LATENCY_S = 0.5


@dataclass(slots=True)
class Cost:
    """The cost of one step."""

    device: float = 0.0
    """Seconds in which the device works on the step."""
    cpu: float = 0.0
    """CPU seconds of this process."""
    wall: float = 0.0


def text(_messages: Any, index: int) -> str:
    """Return a completion of the requested length. In the tokenizer used here, each character is one token."""
    return f"{index:06d} " + "a" * (int(os.environ.get("COMPLETION_TOKENS", "64")) - 8)


@contextmanager
def working(cost: Cost, device: str) -> Iterator[None]:
    """Count the block's wall time as device time."""
    synchronise(device)
    begun = time.perf_counter()
    yield
    synchronise(device)
    cost.device += time.perf_counter() - begun


@contextmanager
def measured(cost: Cost) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    cost.wall, cost.cpu = time.perf_counter() - wall, time.process_time() - cpu


class Bench:
    """A model of the requested shape and its training step."""

    def __init__(self, options: argparse.Namespace, directory: Path) -> None:
        self.options = options
        self.tokenizer = build_tokenizer()
        config = Config.model_validate(
            {
                "model": {"name": "tiny"},
                "game": {"group_size": G},
                "generation": {"max_completion_tokens": options.tokens, "batch": options.groups * G},
            }
        )
        self.step_trainer = SourceGRPOTrainer(
            make_model(options.shape),
            self.tokenizer,
            config,
            directory,
            device=options.device,
            dtype="float32" if options.device == "cpu" else "bfloat16",
        )
        self.local = LocalSource(self.step_trainer.policy, self.tokenizer, config.generation, StopFlag())

    def prompts(self, step: int) -> list[Prompt]:
        made = []
        for number in range(self.options.groups):
            name = f"question {step * self.options.groups + number}"
            question = Question("t", "train", step, number, name, {}, name, name)
            made.append(Prompt(question, "answer", (), tuple([5] * 32)))
        return made

    def train(self, step: int, groups: list[list[Rollout]], kind: Kind, cost: Cost) -> None:
        rows = tuple(
            TrainingRow(kind, "b", "t", number, (5,) * 32, rollout.ids, "", 1.0, 1.0 if index % 2 else -1.0, 0)
            for number, group in enumerate(groups)
            for index, rollout in enumerate(group)
        )
        with working(cost, self.options.device):
            self.step_trainer.step(Manifest(step, step, step, self.options.micro_batch, rows))


def local_steps(bench: Bench) -> list[Cost]:
    costs = []
    for step in range(bench.options.steps + 1):
        cost = Cost()
        with measured(cost):
            with working(cost, bench.options.device):
                made = bench.local.generate(bench.prompts(step), G, seed=step)
            bench.train(step, [list(group) for group in made], Kind.POLICY, cost)
        costs.append(cost)
    return costs[1:]  # the first step compiles and allocates


def offloaded_steps(bench: Bench, directory: Path) -> list[Cost]:
    options, costs = bench.options, []
    sampling = SamplingParams(temperature=1.0, max_tokens=options.tokens, reasoning_tokens=0, reasoning_effort=None)

    def encode(text: str, _cut: bool) -> tuple[int, ...]:
        return (*bench.tokenizer.encode(text, add_special_tokens=False), bench.tokenizer.eos_token_id)

    os.environ["COMPLETION_TOKENS"] = str(options.tokens)
    with api_process(answer="benchmarks.offload_local_cost:text", latency=LATENCY_S) as server:
        with engine(directory, endpoint(server.base_url, group="n"), price=Price(0, 0), sampling=sampling) as rig:
            rig.offload.wait_for_probe()
            journal = Journal(rig.journal, SWARM)
            for step in range(options.steps + 1):
                cost, prompts = Cost(), bench.prompts(step)
                first = step * options.groups
                with measured(cost):
                    rig.run([order(first + number, G, round_=step) for number in range(options.groups)])
                    groups = [list(journal.rollouts(step, prompt, step, encode).values()) for prompt in prompts]
                    assert [len(group) for group in groups] == [G] * options.groups
                    bench.train(step, groups, Kind.TEACHER, cost)
                costs.append(cost)
    return costs[1:]


def peak(device: str) -> float:
    """Return peak memory since the last reset, in GiB: the device's, or on a CPU the process's."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def show(name: str, of: str, local: list[Cost], offloaded: list[Cost]) -> None:
    a, b = (statistics.median(getattr(cost, of) for cost in costs) for costs in (local, offloaded))
    print(f"{name:38} local {a:8.3f} s   offloaded {b:8.3f} s   {a / b:5.1f} x less")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--groups", type=int, default=2, help="questions per step, with eight completions each")
    parser.add_argument("--tokens", type=int, default=64, help="maximum completion length")
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()
    print(f"{options.shape}, {options.groups} x {G} completions of up to {options.tokens} tokens, {options.device}")
    with tempfile.TemporaryDirectory() as root:
        bench = Bench(options, Path(root))
        # Offloaded first, because a process's peak memory cannot be reset.
        reset_peak(options.device)
        offloaded = offloaded_steps(bench, Path(root) / "node")
        peak_offloaded = peak(options.device)
        reset_peak(options.device)
        local = local_steps(bench)
        peak_local = peak(options.device)
    show("device seconds per step", "device", local, offloaded)
    show("CPU seconds of this process per step", "cpu", local, offloaded)
    show("wall seconds per step, no overlap", "wall", local, offloaded)
    print(f"{'peak memory':38} local {peak_local:8.2f} GiB offloaded {peak_offloaded:8.2f} GiB")


if __name__ == "__main__":
    main()
