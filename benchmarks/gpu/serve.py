"""Compare how a node generates: itself, with a vLLM on another GPU, and with one on its own GPU.

Each is a run of ``swarmctl run``, in turn. The model has Qwen2.5-0.5B's shape and random weights, or is SmolLM2, if it
is on this machine (``--model smollm2``). Prints a round's seconds by part (medians with the least, the most and the
mean: with a server that is asked ahead, slow and fast rounds alternate), their ratios to a node that generates itself,
each card's memory while the node generates and while it trains, and what the completions counted as. "Generation alone"
is the server on another GPU for a node that trains on nothing, because all rewards are equal: a round with training
should take hardly longer than the longer of the two. Needs no network. On a CPU, only shows that it works.

    python -m benchmarks.gpu.serve --vllm /PATH/TO/bin/vllm
    python -m benchmarks.gpu.serve --vllm build/vllm/bin/vllm --model tiny --device cpu --rows 8 --tokens 12 --rounds 4
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.serve_model import SHAPES, save_model, save_task
from hivemind_exp.models import smollm2

G = 8
"""Completions per prompt."""
SAMPLE_S = 0.05
"""Seconds between two looks at the cards' memory."""
ALONE, GENERATION, BESIDE = "itself", "generation alone", "another GPU"
BAR = 1.05
"""The most that a round with a server on another GPU should take, as a multiple of training or generation alone."""
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Setup:
    """One way to generate."""

    name: str
    gpus: int
    """How many the node may use. With a server on another GPU, that GPU counts, too."""
    turns: str | None
    """``offload.serving.turns``; None: no server."""
    trains: bool = True
    """False: all rewards are equal."""


SETUPS = (
    Setup(ALONE, 1, None),
    Setup(GENERATION, 2, "off", trains=False),
    Setup(BESIDE, 2, "off"),
    Setup("in turn", 1, "on"),
    Setup("at once", 1, "off"),
)


@dataclass(frozen=True, slots=True)
class Round:
    """What one round took."""

    whole: float
    """Seconds since the end of the round before."""
    parts: dict[str, float]
    end: float
    """Unix time."""


@dataclass
class Found:
    """What a run showed, without its first rounds."""

    rounds: list[Round]
    kinds: dict[str, int]
    """Completions by kind and lag."""
    warnings: list[str]
    memory: dict[str, dict[int, float]] = field(default_factory=dict)
    """By part of a round and by card: GiB in use, the median."""

    def seconds(self, part: str) -> list[float]:
        return [each.whole if part == "whole" else each.parts[part] for each in self.rounds]


class Cards:
    """Looks at the memory in use on each card, in a thread."""

    def __init__(self, count: int) -> None:
        self.seen: list[tuple[float, list[int]]] = []
        """Unix times, with bytes by card."""
        self._count, self._done = count, threading.Event()

    @contextmanager
    def watched(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def _watch(self) -> None:
        if not self._count:
            return
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(self._count)]
        while not self._done.wait(SAMPLE_S):
            self.seen.append((time.time(), [int(pynvml.nvmlDeviceGetMemoryInfo(each).used) for each in handles]))
        pynvml.nvmlShutdown()

    def between(self, spans: Sequence[tuple[float, float]]) -> dict[int, float]:
        """Return the median GiB in use on each card within the middle half of each span."""
        inner = [(start + (end - start) / 4, end - (end - start) / 4) for start, end in spans]
        kept = [used for at, used in self.seen if any(start <= at <= end for start, end in inner)]
        return {card: statistics.median(each[card] for each in kept) / GIB for card in range(self._count) if kept}


def card_count() -> int:
    """Return how many NVIDIA cards there are."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


def run(setup: Setup, options: argparse.Namespace, model: str, place: Path, cards: int) -> Found:
    """Play a node's rounds. Raises ``SystemExit`` with the end of its output if it fails."""
    home = place / setup.name.replace(" ", "-")
    settings = {
        "model.name": model,
        "model.device": options.device,
        "model.lora": "false" if options.all_weights else "true",
        "prompt.style": "tags",
        "prompt.examples": "0",
        "game.groups": str(options.rows // G),
        "game.group_size": str(G),
        "game.refill": "0",
        "generation.max_prompt_tokens": str(options.prompt_tokens),
        "generation.max_completion_tokens": str(options.tokens),
        "eval.every": "0",
        "checkpoint.every": "1000",
    }
    words = ["run", "--node", "serve", "--profile", "default", "--rounds", str(options.rounds), "--plain", "--yes"]
    words += ["--task", str(save_task(place / "sums.py", equal=not setup.trains))]
    if setup.turns is not None:
        words += ["--serve", options.vllm]
        settings |= {"offload.serving.turns": setup.turns}
        if options.arguments:
            settings["offload.serving.arguments"] = json.dumps(shlex.split(options.arguments))
    changes = [word for pair in settings.items() for word in ("--set", "=".join(pair))]
    visible = ",".join(str(index) for index in range(setup.gpus)) if cards else ""
    environment = os.environ | {"SWARMCTL_HOME": str(home), "CUDA_VISIBLE_DEVICES": visible, "HF_HUB_OFFLINE": "1"}
    seen = Cards(cards)
    with seen.watched():
        done = subprocess.run(
            [sys.executable, "-m", "swarmctl", *words, *changes],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"{setup.name}: {done.stdout}{done.stderr}"[-3000:])
    events = [json.loads(line) for line in (home / "nodes/serve/events.jsonl").read_text().splitlines()]
    found = read(events, options.skip)
    spans = {
        "generate": [(each.end - sum(each.parts.values()), each.parts["generate"]) for each in found.rounds],
        "train": [(each.end - each.parts["train"], each.parts["train"]) for each in found.rounds],
    }
    found.memory = {
        part: seen.between([(start, start + length) for start, length in each]) for part, each in spans.items()
    }
    return found


def read(events: Sequence[dict[str, Any]], skip: int) -> Found:
    """Return what events say, without the first ``skip`` rounds."""
    ends = [event for event in events if event["event"] == "round"]
    rounds = [
        Round(event["t"] - before["t"], event["seconds"], event["t"])
        for before, event in itertools.pairwise(ends)
        if event["round"] >= skip
    ]
    kinds: Counter[str] = Counter()
    for event in events:
        if event["event"] == "rollouts" and event["round"] >= skip:
            lag = "" if event["lag"] is None else f", lag {event['lag']:g}"
            kinds[f"{event['source']}{lag}"] += event["count"]
    return Found(rounds, dict(kinds), [event["message"] for event in events if event["event"] == "warning"])


def shown(values: Sequence[float]) -> str:
    mean = statistics.mean(values)
    return f"{statistics.median(values):7.3f} s ({min(values):.3f} to {max(values):.3f}), mean {mean:.3f}"


def ratio(alone: Sequence[float], other: Sequence[float]) -> str:
    """Return how many times faster the other is, for the medians, and for the quarters that favor it least and most."""
    slow, fast = statistics.quantiles(alone, n=4), statistics.quantiles(other, n=4)
    middle = statistics.median(alone) / max(1e-9, statistics.median(other))
    return f"{middle:6.2f} x ({slow[0] / max(1e-9, fast[2]):.2f} to {slow[2] / max(1e-9, fast[0]):.2f})"


def report(name: str, found: Found, alone: Found | None) -> None:
    """Print what a run showed, beside a node that generates itself."""
    for part in ("whole", "generate", "train"):
        values = found.seconds(part)
        beside = "" if alone is None or alone is found else f" | {ratio(alone.seconds(part), values)}"
        print(f"{name:16} {part:9} {shown(values)}{beside}")
    for part, used in found.memory.items():
        cards = ", ".join(f"GPU {card}: {value:.1f} GiB" for card, value in used.items())
        print(f"{name:16} memory while it is to {part}: {cards or 'no NVIDIA GPU'}")
    print(f"{name:16} completions: {found.kinds}")
    for message in dict.fromkeys(found.warnings):
        print(f"{name:16} warning: {message}")
    print(flush=True)


def overlap(figures: Mapping[str, Found]) -> str:
    """Return how a round with a server on another GPU compares with the longer of its parts alone, by their means."""
    whole = statistics.mean(figures[BESIDE].seconds("whole"))
    parts = {
        "training": statistics.mean(figures[ALONE].seconds("train")),
        "generation": statistics.mean(figures[GENERATION].seconds("whole")),
    }
    longest = max(parts, key=lambda part: parts[part])
    return f"a round with a server on another GPU: {whole / parts[longest]:.2f} x {longest} alone (aim: at most {BAR})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", default="vllm", help="the program")
    parser.add_argument("--arguments", default="", help="further arguments for vLLM, in one string")
    parser.add_argument("--model", default="0.5B", help=f"{', '.join(SHAPES)}, smollm2, or a directory")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--prompt-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--skip", type=int, default=2, help="rounds that are not counted, at the start")
    parser.add_argument("--all-weights", action="store_true", help="instead of LoRA of rank 16")
    parser.add_argument("--only", nargs="+", choices=[each.name for each in SETUPS])
    parser.add_argument("--output", type=Path, help="write all figures to this file, as JSON")
    options = parser.parse_args()
    if options.rounds - max(1, options.skip) < 2:
        parser.error("at least two rounds must count: raise --rounds or lower --skip")
    cards = card_count() if options.device == "cuda" else 0
    figures: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        model = str(save_model(options.model, place / "model")) if options.model in SHAPES else options.model
        if model == smollm2.NAME and smollm2.stored(os.environ) is None:
            parser.error("smollm2 is not on this machine. Once: swarmctl run --model smollm2 --rounds 1")
        print(f"{options.model}, {options.rows} × {options.tokens} tokens a round, {options.rounds} rounds")
        for setup in SETUPS:
            if options.only and setup.name not in options.only:
                continue
            if (setup.gpus > cards and options.device == "cuda") or (setup.turns == "on" and not cards):
                print(f"{setup.name}: left out, because it needs {setup.gpus} GPUs and there are {cards}\n")
                continue
            figures[setup.name] = run(setup, options, model, place, cards)
            report(setup.name, figures[setup.name], figures.get(ALONE))
            if options.output is not None:
                options.output.write_text(json.dumps({name: asdict(each) for name, each in figures.items()}, indent=1))
    if figures.keys() >= {ALONE, GENERATION, BESIDE}:
        print(overlap(figures))


if __name__ == "__main__":
    main()
