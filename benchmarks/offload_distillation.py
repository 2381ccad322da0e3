"""Measure what a small model learns from a better one over HTTP: its answers, or its scores of the student's samples.

The student is the demo's tiny model. With a *cold* start, it knows the format and copies the word, so it is almost
never correct. With a *sparse* start, it was shown one correct answer in 20. The *half-way* start is that of the demo.
The teacher has the same tokenizer, is wider, and was warmed up on correct demonstrations only. A server computes its
answers and its scores (``benchmarks.token_server``, or a real one with ``--url``), at a fixed price. All arms play the
same rounds, of 16 questions with 8 completions.

Accuracy is greedy, on 200 held-out questions, with the real verifier. ``sampled`` and ``trained`` are tokens that this
machine generated and learned from; ``paid`` are the server's prompt and completion tokens. Prints one line per seed,
then each arm's median with the lowest and highest gain. Runs side by side on as many cores as ``--parallel`` says.

    python -m benchmarks.offload_distillation --seeds 3 --parallel 8

Each arm has about the learning rate with which it gained most on seed 100 (``--rates --first 100``).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from benchmarks.offload_learning import ALONE, COLD, HALF, PRICE, Start, make_base, seeded_files, settings
from benchmarks.offload_learning import Arm as Learner
from hivemind_exp.config import Config
from hivemind_exp.events import EvalEvent, Event, RolloutsEvent, SpendEvent, StepEvent

TEACHER_STEPS = 1200
RATES = (1e-4, 3e-4, 1e-3)


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of learning."""

    name: str
    offload: tuple[tuple[str, Any], ...] | None
    """Settings of ``[offload]``. None: the student learns alone."""
    rates: tuple[float, float, float]
    """Learning rate for each start."""
    rewarded: bool = True
    """Whether the student's own rewards count."""


DISTIL = (("teach", "distillation"),)
ARMS = (
    Arm("alone", None, (1e-4, 3e-4, 3e-4)),
    Arm("answers", (("share", 1.0),), (1e-3, 1e-3, 1e-3)),
    Arm("answers, half", (("share", 0.5),), (1e-3, 3e-4, 3e-4)),
    Arm("distillation", DISTIL, (3e-4, 3e-4, 3e-4)),
    Arm("distillation, no rewards", DISTIL, (3e-4, 3e-4, 3e-4), rewarded=False),
)
SPARSE = Start("sparse", 450, 0.05)
STARTS = (COLD, SPARSE, HALF)


@dataclass(slots=True)
class Outcome:
    """The result of one arm and seed."""

    before: float = 0.0
    accuracy: list[float] = field(default_factory=list)
    """By evaluation, after training began."""
    sampled: int = 0
    trained: int = 0
    paid: int = 0
    usd: float = 0.0
    seconds: float = 0.0

    @property
    def points(self) -> float:
        """Gain in percentage points."""
        return 100 * (self.accuracy[-1] - self.before)

    @property
    def cents_a_point(self) -> float | None:
        return 100 * self.usd / self.points if self.usd and self.points > 0 else None


def make_teacher(directory: Path, steps: int) -> None:
    """Train the teacher and save it. vLLM serves models with heads of 64."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from hivemind_exp.game.sampling.game import build_prompts
    from hivemind_exp.models import tiny
    from hivemind_exp.runner.grpo_runner import make_mixture
    from hivemind_exp.warmup_settings import WarmupConfig

    torch.set_num_threads(1)
    tokenizer = tiny.build_tokenizer()
    torch.manual_seed(1)
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=1024, tie_word_embeddings=True, **shape, **ends)
    )
    config = settings(Learner(ALONE, HALF), 99, 1, None)
    with tempfile.TemporaryDirectory() as root, closing(make_mixture(config, seeded_files(Path(root), 99))) as tasks:
        prompts = build_prompts(tasks.questions("train", -1, 8192), tokenizer)
    plan = WarmupConfig(steps=steps, batch=64, learning_rate=2e-3)
    with patch.multiple(tiny, RIGHT=1.0, RIGHT_LONG=1.0):
        tiny.warm_up(model, tokenizer, prompts, plan, seed=7, progress=lambda *_: None, should_stop=lambda: False)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


@contextmanager
def served(directory: Path, url: str | None) -> Iterator[str]:
    """Yield the address of a server with the teacher: a new one, or ``url``."""
    if url is not None:
        yield url
        return
    command = [sys.executable, "-m", "benchmarks.token_server", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def configure(arm: Arm, start: Start, seed: int, rounds: int, url: str, *, model: str, rate: float) -> Config:
    """Return the configuration of one run."""
    config = settings(Learner(ALONE, start, learning_rate=rate), seed, rounds, None).model_dump(mode="json")
    config["train"]["teacher_learning_rate"] = rate
    if arm.offload is not None:
        config["offload"] |= {"provider": "teacher", "model": model, "fallback": [], "prices": {"teacher": PRICE}}
        config["offload"] |= dict(arm.offload)
        config["providers"] = {"teacher": {"base_url": f"{url}/v1", "group": "n"}}
    return Config.model_validate(config)


def run(arm: Arm, start: Start, seed: int, rounds: int, bases: Path, *, url: str | None, rate: float) -> Outcome:
    """Run a node. Raises ``AssertionError`` if its spending differs from the server's bill."""
    from transformers.utils.logging import disable_progress_bar

    from hivemind_exp.runner.grpo_runner import GRPORunner, make_mixture
    from hivemind_exp.trainer import hivemind_grpo_trainer as trainer
    from hivemind_exp.trainer.advantages import build_rows

    disable_progress_bar()
    found, evaluations = Outcome(), list[float]()

    def emit(event: Event, /) -> None:
        if isinstance(event, EvalEvent):
            evaluations.append(event.accuracy)
        elif isinstance(event, SpendEvent):
            found.usd += event.usd
            found.paid += event.tokens
        elif isinstance(event, StepEvent):
            found.trained = found.trained + event.tokens
        elif isinstance(event, RolloutsEvent) and event.source == "policy":
            found.sampled += event.tokens or 0

    def without_rewards(*given: Any) -> Any:
        from dataclasses import replace

        return [replace(row, advantage=0.0) for row in build_rows(*given)]

    base = bases / f"{start.name} {seed}"
    with tempfile.TemporaryDirectory() as directory, served(bases / "teacher", url) as address:
        root = Path(directory)
        shutil.copytree(base, root / "base")
        config = configure(arm, start, seed, rounds, address, model="teacher", rate=rate)
        begun = time.perf_counter()
        with patch.object(trainer, "build_rows", build_rows if arm.rewarded else without_rewards):
            GRPORunner(config, seeded_files(root, seed), emit, make_tasks=make_mixture).run()
        found.seconds = time.perf_counter() - begun
        if arm.offload is not None and url is None:
            with urllib.request.urlopen(f"{address}/bill") as answer:
                bill = json.load(answer)
            usd = (bill["prompt_tokens"] * PRICE["input"] + bill["completion_tokens"] * PRICE["output"]) / 1e6
            assert abs(usd - found.usd) < 1e-6, f"the node counts {found.usd} USD, the server {usd}"
            assert bill["total_tokens"] == found.paid, f"the node counts {found.paid} tokens, the server {bill}"
    found.before, *found.accuracy = evaluations
    return found


def _job(job: tuple[Any, ...]) -> tuple[tuple[Any, ...], Outcome]:
    arm, start, seed, rounds, bases, url, rate = job
    return job, run(arm, start, seed, rounds, bases, url=url, rate=rate)


def _base(job: tuple[Start, int, Path]) -> None:
    start, seed, bases = job
    make_base(start, settings(Learner(ALONE, start), seed, 1, None), bases / f"{start.name} {seed}")


HEAD = (
    f"{'seed':>6}  {'start':8}  {'arm':24}  {'rate':>6}  before  after    gain  half way  sampled  trained     paid"
    "   cents  cents/point  seconds"
)


def row(seed: object, start: Start, arm: Arm, rate: float, found: Outcome) -> str:
    """Return a line of the table. Values are ``-`` if no money was spent or nothing was gained."""
    each, middle = found.cents_a_point, found.accuracy[(len(found.accuracy) - 1) // 2]
    return (
        f"{seed:>6}  {start.name:8}  {arm.name:24}  {rate:6.0e}  {found.before:6.3f}  {found.accuracy[-1]:5.3f}  "
        f"{found.points:+6.1f}  {middle:8.3f}  {found.sampled:7,}  {found.trained:7,}  {found.paid:7,}  "
        f"{100 * found.usd:6.2f}  {'-' if each is None else format(each, '.4f'):>11}  {found.seconds:7.0f}"
    )


def middle(found: Sequence[Outcome]) -> Outcome:
    """Return the median of each value over the seeds."""

    def of(name: str) -> float:
        return float(statistics.median(getattr(each, name) for each in found))

    return Outcome(
        before=of("before"),
        accuracy=[statistics.median(values) for values in zip(*(each.accuracy for each in found), strict=True)],
        sampled=round(of("sampled")),
        trained=round(of("trained")),
        paid=round(of("paid")),
        usd=of("usd"),
        seconds=of("seconds"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--rounds", type=int, default=60, help="rounds of 16 questions with 8 completions")
    parser.add_argument("--parallel", type=int, default=1, help="runs at a time, one core each")
    parser.add_argument("--rates", action="store_true", help="run every arm with each learning rate")
    parser.add_argument("--only", metavar="NAMES", help="arms to run, separated by semicolons")
    parser.add_argument("--url", help="address of a server with the teacher, such as vLLM's (without /v1)")
    parser.add_argument("--teacher", type=Path, metavar="DIRECTORY", help="save the teacher here, or use this one")
    parser.add_argument("--starts", metavar="NAMES", default="cold sparse half-way", help="starts, separated by blanks")
    options = parser.parse_args()
    starts = [start for start in STARTS if start.name in options.starts.split()]
    seeds = range(options.first, options.first + options.seeds)
    arms = [arm for arm in ARMS if not options.only or arm.name in options.only.split(";")]
    with tempfile.TemporaryDirectory() as directory, ProcessPoolExecutor(options.parallel) as pool:
        bases = Path(directory)
        made = options.teacher if options.teacher and options.teacher.exists() else None
        training = None if made else pool.submit(make_teacher, bases / "teacher", TEACHER_STEPS)
        list(pool.map(_base, [(start, seed, bases) for start in starts for seed in seeds]))
        if training is not None:
            training.result()
            if options.teacher:
                shutil.copytree(bases / "teacher", options.teacher)
        else:
            shutil.copytree(options.teacher, bases / "teacher")
        jobs = [
            (arm, start, seed, options.rounds, bases, options.url, rate)
            for start in starts
            for arm in arms
            for rate in (RATES if options.rates else [arm.rates[STARTS.index(start)]])
            for seed in seeds
        ]
        print(HEAD, flush=True)
        results: dict[tuple[Any, ...], list[Outcome]] = {}
        for (arm, start, seed, *_, rate), found in pool.map(_job, jobs):
            print(row(seed, start, arm, rate, found), flush=True)
            results.setdefault((start, arm, rate), []).append(found)
        for (start, arm, rate), outcomes in results.items() if len(seeds) > 1 else ():
            gains = [each.points for each in outcomes]
            print(f"{row('median', start, arm, rate, middle(outcomes))}  {min(gains):+.1f} to {max(gains):+.1f}")


if __name__ == "__main__":
    main()
