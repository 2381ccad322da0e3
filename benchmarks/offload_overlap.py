"""Measure how well API generation and training overlap in a `sampling` round, compared with each of them alone.

Generation alone is the engine's process with the same requests and no training. Training alone is the same node with a
journal that already holds every completion. When both run together, they should overlap, so that a round takes as long
as the longer of the two. There are three cases: the API is faster than, as fast as, and slower than training. All cases
run in one call and report medians over the rounds. The server is a separate process with fixed latency.

The model is small, but large enough that training on a row takes longer than handling its text, as with real models.

    python -m benchmarks.offload_overlap
    python -m benchmarks.offload_overlap --group fan_out
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shutil
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hivemind_exp.config import Config, charter_id
from hivemind_exp.events import Event, RoundEvent
from hivemind_exp.journal.journal import Journal
from hivemind_exp.models.tiny import build_tokenizer
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.process.client import open_offload
from hivemind_exp.providers import Group
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.secrets import Secrets
from hivemind_exp.stop import StopFlag
from tests.support.engine_rig import order
from tests.support.fake_api.remote import api_process
from tests.support.spelling_task import Spelling

GROUPS, G = 16, 8
IN_FLIGHT: dict[Group, int] = {"n": GROUPS, "fan_out": GROUPS * G // 2}
"""Requests in flight, by how a group is requested. With fan-out, a group's first request goes before the others."""
SKIPPED = 3
"""Rounds at the start that are not counted: caches are cold, and nothing was requested ahead of time."""
BAR = 1.05


class Ends:
    """Records when each round ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, RoundEvent):
            self.mark()

    def mark(self) -> None:
        """Note the end of a round."""
        self.ends.append(time.perf_counter())

    @property
    def median(self) -> float:
        """Median time from the end of one round to the end of the next, in seconds."""
        return statistics.median(after - before for before, after in itertools.pairwise(self.ends[SKIPPED:]))


def answer(messages: Any, _index: int) -> str:
    """Spell the word backward in the strict format, so that every row has nonzero weight."""
    word = re.sub(r".*: ", "", messages[-1]["content"])
    return f"<answer>{word[::-1]}</answer>"


def save_model(directory: Path) -> Path:
    tokenizer = build_tokenizer()
    shape = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, **shape))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def make_config(model: Path, base_url: str, group: Group, rounds: int) -> Config:
    return Config.model_validate(
        {
            "node": {"name": "overlap", "seed": 1},
            "model": {"name": str(model), "device": "cpu", "threads": 1},
            "tasks": ["spell_backward"],
            "game": {"rounds": rounds, "groups": GROUPS, "group_size": G},
            "generation": {"max_prompt_tokens": 64, "max_completion_tokens": 16},
            "train": {"micro_batch": 32},
            "eval": {"every": 0, "questions": 1},
            "checkpoint": {"every": 10_000},
            "offload": {"provider": "box", "limits": {"concurrency": IN_FLIGHT[group], "usd": "unlimited"}},
            "providers": {"box": {"base_url": base_url, "model": "test-model", "group": group, "free": True}},
        }
    )


def play(root: Path, config: Config) -> float:
    """Run the node. Return the median time of its rounds, in seconds."""
    root.mkdir(exist_ok=True)
    ends = Ends()
    GRPORunner(config, NodeFiles(root), ends, make_tasks=lambda *_: Spelling()).run()
    return ends.median


def trained_alone(root: Path, config: Config) -> float:
    """Run the node again from the beginning, with a copy of its journal from which the steps were deleted."""
    again = NodeFiles(root.with_name("again"))
    again.root.mkdir()
    shutil.copy(NodeFiles(root).journal, again.journal)
    with closing(sqlite3.connect(again.journal, isolation_level=None)) as db:
        for table in ("manifests", "turns", "lessons", "evaluations"):
            db.execute(f"DELETE FROM {table}")
    seconds = play(again.root, config)
    shutil.rmtree(again.root)
    return seconds


def generated_alone(root: Path, config: Config) -> float:
    """Return the seconds that the engine's process takes for a round's requests, without training.

    Three rounds are in flight at once.
    """
    files, rounds = NodeFiles(root), config.game.rounds
    root.mkdir()
    Journal(files.journal, charter_id(config)).close()
    orders = [[order(r * GROUPS + n, G, round_=r) for n in range(GROUPS)] for r in range(rounds)]
    ends = Ends()
    offload = open_offload(config, files, Secrets(), ends, StopFlag())
    assert offload is not None
    with closing(offload):
        offload.wait_for_probe()
        for round_ in range(rounds):
            for coming in orders[round_ : round_ + 3]:
                offload.submit(coming)
            offload.wait(round_)
            ends.mark()
    return ends.median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--group", choices=list(IN_FLIGHT), default="n", help="how to request a group")
    options = parser.parse_args()
    group: Group = options.group
    waves = GROUPS * (G if group == "fan_out" else 1) / IN_FLIGHT[group]
    torch.set_num_threads(1)
    print(f"{GROUPS} x {G} completions per round, {options.rounds} rounds; median seconds per round")
    with tempfile.TemporaryDirectory() as directory:
        with api_process(answer="benchmarks.offload_overlap:answer", latency=0.05) as server:
            config = make_config(save_model(Path(directory) / "model"), server.base_url, group, options.rounds)
            play(Path(directory) / "first", config)
            expected = trained_alone(Path(directory) / "first", config)
            for case, factor in (("API faster", 0.3), ("API as fast", 1.0), ("API slower", 2.0)):
                server.set(latency=factor * expected / waves)
                root = Path(directory) / case
                root.mkdir()
                together = play(root / "node", config)
                generation = generated_alone(root / "engine", config)
                training = trained_alone(root / "node", config)
                longer = max(training, generation)
                print(
                    f"{case:12} training {training:6.3f}   generation {generation:6.3f}   together {together:6.3f}   "
                    f"ratio to the longer {together / longer:.3f} (limit {BAR})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
