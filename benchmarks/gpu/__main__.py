"""Measure every figure of a GPU that this project promises, beside plain TRL, in one run.

Models have Qwen2.5's shapes and random weights. Each side is warmed up, then measured several times in turn. Prints
medians with the least and the most, ratios, what the memory estimate says beside each measured peak, and the bars. With
a second GPU, also compares a node on both with one on the first (``benchmarks.gpu.several``), and with vLLM a server of
the node's weights (``benchmarks.gpu.serve``). On a CPU (``--device cpu``), only shows that it works.

    make bench-gpu
    python -m benchmarks.gpu --vllm /PATH/TO/bin/vllm
    python -m benchmarks.gpu --shape tiny --device cpu --rows 16 --tokens 12 --repeats 1
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
import trl

from benchmarks.gpu import plain_trl
from benchmarks.gpu.cards import limited
from benchmarks.gpu.models import SHAPES, G, Node, Work, node, release
from benchmarks.gpu.one_gpu import restart
from benchmarks.gpu.table import Bar, beside, gib, seconds, shown
from benchmarks.gpu.work import GIB, Cost, generate, made_up, measured, prompts, spread, train
from hivemind_exp.models.device import share_gpus
from hivemind_exp.models.fused_kernels import installed
from hivemind_exp.models.memory import NodeMemory, Shape

LORA = {"lora": {"rank": 16}}
SECTIONS = ("training", "generation", "step", "cards", "several", "serve")
ROWS_OF_SEVERAL = "1024"
"""Fewer rows do not fill two GPUs."""
RUNTIME = 0.75 * GIB
"""What CUDA itself takes of a card's memory."""


class Run:
    """Measures, prints, and keeps what was found."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.work = Work(options.shape, options.rows, device=options.device, tokens=options.tokens)
        self.repeats, self.vllm = options.repeats, options.vllm
        self.gpus: list[str] = options.visible or []
        """All that the scripts for several GPUs may use. Empty: on a CPU."""
        self.bars: list[Bar] = []
        self.found: dict[str, Any] = {}

    def keep(self, name: str, costs: list[Cost]) -> list[Cost]:
        self.found[name] = [asdict(cost) for cost in costs]
        return costs

    def generation(self) -> None:
        """Compare generation with stock ``generate`` under autocast, for equal lengths and lengths spread evenly."""
        for name, model in (("all weights", {}), ("LoRA", LORA)):
            for lengths, how in (([self.work.tokens] * self.work.rows, "equal"), (spread(self.work), "spread")):
                title = f"generation, {name}, {how} lengths"
                slow, fast = self._both(title, lengths, model)
                print(beside(title, slow, fast), flush=True)
                ratio = seconds(slow) / seconds(fast)
                self.bars.append(Bar(f"{title}, plain / swarmctl", ratio, 5 if how == "equal" else 3, "x", True))
                if how == "equal":
                    rate = fast[0].tokens / seconds(fast)
                    self.bars.append(Bar(title, rate, 14_000, "tokens/s", True))
            self._refilled(f"generation, {name}", model)

    def _refilled(self, title: str, model: dict[str, Any]) -> None:
        """Compare a quarter of the rows at a time with and without waiting prompts that take the place of others."""
        size, lengths = max(G, self.work.rows // 4), spread(self.work)
        apart, refilled = list[Cost](), list[Cost]()
        with node(self.work, model=model, generation={"batch": size}) as made:

            def in_turn(seed: int) -> Cost:
                asked = prompts(self.work, seed)

                def run() -> int:
                    tokens = 0
                    for start in range(0, len(asked), size // G):
                        made.source.lengths = lengths[start * G : start * G + size]
                        groups = made.source.generate(asked[start : start + size // G], G, seed=seed)
                        tokens += sum(len(rollout.ids) for group in groups for rollout in group)
                    return tokens

                return measured(self.work, run)

            for number in range(self.repeats + 1):
                apart.append(in_turn(number))
                made.source.lengths = lengths
                refilled.append(self._generated(made.source, number))
        name = f"{title}, {size} rows at a time"
        slow, fast = self.keep(f"{name}, in turn", apart[1:]), self.keep(name, refilled[1:])
        print(f"{name}, spread lengths: one batch after the other {shown(slow)}")
        print(f"{'':34} refilled {shown(fast)} | {seconds(slow) / seconds(fast):.2f} x", flush=True)

    def _both(self, title: str, lengths: list[int], model: dict[str, Any]) -> tuple[list[Cost], list[Cost]]:
        """Return the costs of stock ``generate`` and of a node's generation."""
        slow, fast = list[Cost](), list[Cost]()
        with node(self.work, model=model, generation={"batch": self.work.rows}) as made:
            made.source.lengths = lengths
            plain = replace(made.source, plain=True, _dtype="float32")
            self._generated(made.source, 0)
            for number in range(self.repeats):
                fast.append(self._generated(made.source, number))
                slow.append(self._generated(plain, number))
        return self.keep(f"{title}, plain", slow), self.keep(title, fast)

    def _generated(self, source: Any, seed: int) -> Cost:
        asked = prompts(self.work, seed)

        def run() -> int:
            groups = source.generate(asked, G, seed=seed)
            return sum(len(rollout.ids) for group in groups for rollout in group)

        return measured(self.work, run)

    def training(self) -> None:
        """Measure steps with given micro-batches, and what is estimated for them."""
        cases: list[tuple[str, dict[str, Any], int | None]] = [
            ("all weights, 16 rows", {}, 16),
            ("all weights, 64 rows", {}, 64),
            ("all weights, 16 rows, recomputed", {"gradient_checkpointing": True}, 16),
            ("all weights, 32 rows, recomputed", {"gradient_checkpointing": True}, 32),
            ("all weights, 64 rows, recomputed", {"gradient_checkpointing": True}, 64),
            ("LoRA, 16 rows", LORA, 16),
            ("LoRA, 16 rows, recomputed", LORA | {"gradient_checkpointing": True}, 16),
            ("LoRA, auto", LORA, None),
        ]
        joint: list[tuple[float, float]] = []
        for name, model, size in cases:
            costs = self._trained(f"training, {name}", self.work, size, model=model)
            if name.startswith("all") and size is not None:
                joint.append((seconds(costs), gib(costs)))
            if name == "LoRA, 16 rows, recomputed":
                self.bars.append(Bar("training, LoRA r16, micro-batch 16", gib(costs), 2.2, "GiB"))
        eight = {"optimizer": "adamw-8bit"}
        self._trained("training, all weights, 16 rows, 8-bit AdamW", self.work, 16, train=eight)
        small = [each for each in joint if each[1] <= 11] or joint
        best = min(small)
        self.bars.append(Bar("training, all weights, fastest within 11 GiB", best[0], 0.42, "s"))
        self.bars.append(Bar("training, all weights, memory of that", best[1], 11, "GiB"))
        self.bars.append(Bar("training, all weights, fastest", min(joint)[0], 0.42, "s"))

    def _trained(self, title: str, work: Work, size: int | None, **tables: Any) -> list[Cost]:
        with node(work, **tables) as made:
            used = size
            costs = list[Cost]()
            for step in range(self.repeats + 2):
                groups = made_up(work, step)
                taken: list[int] = []

                def run(step: int = step, groups: Any = groups, taken: list[int] = taken) -> int:
                    taken.append(train(made, step, groups, size).micro_batch)
                    return 0

                costs.append(measured(work, run))
                used = taken[0]
            checkpointing = bool(made.step_trainer.policy.is_activation_checkpointing)
            guess = self._estimate(made, work, lambda memory: self._step(memory, work, used or 1, checkpointing))
            measured_gib = gib(costs[2:])
        kept = self.keep(title, costs[2:])
        self.found[f"{title}: estimate"] = guess
        estimated = f"estimate {guess:.2f} GiB, {guess / measured_gib:.2f} x"
        print(f"{title:50} {shown(kept)}; {used} rows; {estimated}", flush=True)
        return kept

    @staticmethod
    def _step(memory: NodeMemory, work: Work, size: int, checkpointing: bool) -> int:
        length = work.prompts[1] + work.tokens
        return memory.training(size, length, work.tokens, checkpointing=checkpointing, several=size < work.rows)

    def _estimate(self, made: Node, work: Work, part: Callable[[NodeMemory], int]) -> float:
        """Return the estimated peak in GiB."""
        shape = SHAPES[work.shape] | {"model_type": "qwen2"}
        read = Shape.read(shape)
        assert read is not None
        memory = NodeMemory(made.config, read, half=work.dtype != "float32", fused=made.fused)
        return (memory.weights + memory.optimizer + part(memory)) / GIB

    def step(self) -> None:
        """Compare the whole local step with plain TRL's: generation, verification (here: of nothing) and training."""
        whole, generation, training = plain_trl.measure(self.work, self.repeats)
        for name, model in (("all weights", {}), ("LoRA", LORA)):
            ours = self.keep(f"step, {name}", self._whole(model))
            print(beside(f"whole local step, {name}", whole, ours), flush=True)
            ratio = seconds(whole) / seconds(ours)
            self.bars.append(Bar(f"whole local step, {name}, TRL / swarmctl", ratio, 4, "x", True))
        for name, costs in (("step", whole), ("generation", generation), ("training", training)):
            self.keep(f"plain TRL, {name}", costs)
            print(f"{'plain TRL, ' + name:50} {shown(costs)}", flush=True)

    def _whole(self, model: dict[str, Any]) -> list[Cost]:
        """Return the costs of a node's generation and training together."""
        ours = list[Cost]()
        with node(self.work, model=model) as made:
            for step in range(self.repeats + 2):

                def run(step: int = step) -> int:
                    train(made, step, generate(made, self.work, step), None)
                    return 0

                ours.append(measured(self.work, run))
        return ours[2:]

    def cards(self) -> None:
        """Run whole steps within the memory of smaller cards. The node chooses its batches."""
        long = replace(self.work, shape="1.5B", rows=16, tokens=1024, prompts=(128, 256))
        self._card("1.5B, LoRA, 1024 tokens", long, 4.0 * GIB, 4.0, model=LORA)
        three = replace(self.work, shape="3B", rows=16, tokens=512, prompts=(128, 256))
        four_bit = LORA | {"load_in_4bit": True}
        self._card("3B, 4 bits, LoRA, 512 tokens", three, 8e9 - RUNTIME, (8e9 - RUNTIME) / GIB, model=four_bit)

    def several(self) -> None:
        """Compare a node on two GPUs with one on a single GPU."""
        cuda = self.work.device.startswith("cuda")
        if cuda and len(self.gpus) < 2:
            print("several: left out, because there is one GPU")
            return
        rows = ROWS_OF_SEVERAL if cuda else str(self.work.rows)
        self._script("several", "--rows", rows, "--repeats", str(self.repeats), "--without-divided")

    def serve(self) -> None:
        """Compare a server of the node's weights with a node that generates itself."""
        if self.vllm is None:
            print("serve: left out, because there is no vllm on the PATH (--vllm)")
            return
        self._script("serve", "--rows", str(self.work.rows), "--vllm", self.vllm)

    def _script(self, name: str, *words: str) -> None:
        """Run another script of this package, on all GPUs. Raises ``CalledProcessError``."""
        shared = ("--tokens", str(self.work.tokens), "--device", self.work.device)
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if self.gpus else {}
        release()
        command = [sys.executable, "-m", f"benchmarks.gpu.{name}", *words, *shared]
        model = ["--model" if name == "serve" else "--shape", self.work.shape]
        subprocess.run([*command, *model], env=os.environ | visible, check=True)

    def _card(self, title: str, work: Work, size: float, bar: float, **tables: Any) -> None:
        with limited(size), node(work, **tables) as made:
            told: list[str] = []
            made.source._emit = lambda event: told.append(str(event))
            generated, trained, batches = list[Cost](), list[Cost](), list[int]()
            for step in range(2):
                groups: list[Any] = []

                def produce(step: int = step, groups: list[Any] = groups) -> int:
                    groups.extend(generate(made, work, step))
                    return sum(len(rollout.ids) for _, rollouts in groups for rollout in rollouts)

                generated.append(measured(work, produce))

                def learn(step: int = step, groups: list[Any] = groups) -> int:
                    batches.append(train(made, step, groups, None).micro_batch)
                    return 0

                trained.append(measured(work, learn))
            checkpointing = bool(made.step_trainer.policy.is_activation_checkpointing)
            guess = self._estimate(made, work, lambda memory: self._step(memory, work, batches[-1], checkpointing))
            batch = made.source.batch_size(prompts(work, 0), G)
            length = work.prompts[1] + work.tokens
            drawn = self._estimate(made, work, lambda memory: memory.generation(batch, work.prompts[1], length))
        print(f"{title}: micro-batches {batches}, recomputed {checkpointing}, generation.batch {batch}; {told}")
        for name, costs, estimated in (("generation", generated, drawn), ("training", trained, guess)):
            self.keep(f"{title}, {name}", costs)
            print(f"{title + ', ' + name:50} {shown(costs)}; estimate {estimated:.2f} GiB", flush=True)
        self.bars.append(Bar(f"{title}, with generation", max(gib(generated), gib(trained)), bar, "GiB"))


def about() -> Iterator[str]:
    """Yield the card and versions."""
    yield torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "CPU"
    yield from (f"{each.__name__} {each.__version__}" for each in (torch, transformers, trl))
    yield f"liger-kernel {version('liger-kernel')}" if installed() else "without liger-kernel"


def main() -> int:
    """Return the exit status: 1 if a part could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="0.5B")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--vllm", default=shutil.which("vllm"), help="the program [default: the one on the PATH]")
    parser.add_argument("--visible", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help="write all figures to this file, as JSON")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error(
            "torch finds no NVIDIA GPU. To see that it works, without figures that mean anything:\n"
            "  python -m benchmarks.gpu --shape tiny --device cpu --rows 16 --tokens 12 --repeats 1"
        )
    if options.device.startswith("cuda") and options.visible is None:
        restart("benchmarks.gpu", share_gpus(torch.cuda.device_count()))
    run, failed = Run(options), False
    print(", ".join(about()))
    print(f"{options.rows} completions of up to {options.tokens} tokens, prompts of {run.work.prompts} tokens")
    for section in options.only:
        if section == "cards" and not options.device.startswith("cuda"):
            print("cards: left out, because only a GPU's memory can be limited")
            continue
        try:
            getattr(run, section)()
        except Exception as error:  # noqa: BLE001 - one section must not cost the others
            failed = True
            print(f"{section} failed: {type(error).__name__}: {error}", flush=True)
            traceback.print_exc()
        release()
        if options.output is not None:
            options.output.write_text(json.dumps({"about": list(about()), **run.found}, indent=1))
    print()
    for bar in run.bars:
        print(bar)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
