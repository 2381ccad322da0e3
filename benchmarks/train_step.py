"""Measure our optimizer step with ready-made rollouts against plain TRL's ``train()`` on the same work.

Both get the same rows, precision, device and optimizer. Rewards differ in every group, so that no row can be skipped.
In a second pair of runs, half of the groups have equal rewards, as in real rounds. Our step skips the rows with zero
weight. Prints the median time from one optimizer step to the next, and the ratio.

    python -m benchmarks.train_step
    python -m benchmarks.train_step --shape qwen2.5-0.5b --device cuda --rows 64 --tokens 256
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from datasets import Dataset
from transformers import PrinterCallback, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from hivemind_exp.config import Config
from hivemind_exp.journal.records import Manifest, TrainingRow
from hivemind_exp.losses.base import GroupRows
from hivemind_exp.losses.policy import weigh
from hivemind_exp.models.tiny import build_tokenizer
from hivemind_exp.source_kinds import Kind
from hivemind_exp.train_settings import TrainConfig
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer

G = 8
PROMPT_TOKENS = 32
SHAPES = {
    "tiny": {"vocab_size": 128, "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 2},
    "small": {"vocab_size": 4096, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4},
    "qwen2.5-0.5b": {
        "vocab_size": 151936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
}
Rollouts = list[tuple[list[int], list[int], float]]


def make_model(shape: str) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    return Qwen2ForCausalLM(Qwen2Config(**{**heads, **SHAPES[shape], "tie_word_embeddings": True}))


def make_rollouts(step: int, rows: int, tokens: int, *, ties: bool) -> Rollouts:
    generator = torch.Generator().manual_seed(step)
    made = []
    for row in range(rows):
        length = int(torch.randint(tokens // 2, tokens, (1,), generator=generator))
        completion = [*torch.randint(3, 100, (length,), generator=generator).tolist(), 1]
        tied = ties and (row // G) % 2
        made.append(([row // G + 3] * PROMPT_TOKENS, completion, 0.0 if tied else float(row % 2)))
    return made


def time_trl(options: argparse.Namespace, *, ties: bool) -> list[float]:
    """Return the seconds from each of plain TRL's optimizer steps to the next."""
    step = iter(range(10**6))
    ends: list[float] = []

    def rollout(prompts: list[Any], trainer: Any) -> dict[str, Any]:  # noqa: ARG001
        made = make_rollouts(next(step), options.rows, options.tokens, ties=ties)
        return {
            "prompt_ids": [r[0] for r in made],
            "completion_ids": [r[1] for r in made],
            "logprobs": None,
            "verified": [r[2] for r in made],
        }

    def reward(verified: list[float], **_: Any) -> list[float]:
        return verified

    class Timed(GRPOTrainer):  # type: ignore[misc]
        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            synchronise(options.device)
            ends.append(time.perf_counter())
            loss: torch.Tensor = super().training_step(*args, **kwargs)
            return loss

    with tempfile.TemporaryDirectory() as output:
        trainer = Timed(
            model=make_model(options.shape),
            reward_funcs=[reward],
            args=GRPOConfig(
                output_dir=output,
                use_cpu=options.device == "cpu",
                bf16=options.device != "cpu",
                max_steps=options.steps + 2,
                per_device_train_batch_size=options.rows // options.accumulate,
                gradient_accumulation_steps=options.accumulate,
                num_generations=G,
                max_completion_length=options.tokens + 1,
                optim="adamw_torch",
                gradient_checkpointing=False,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                beta=0.0,
            ),
            train_dataset=Dataset.from_dict({"prompt": ["a"] * 4096}),
            processing_class=build_tokenizer(),
            rollout_func=rollout,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    starts = ends[:: options.accumulate]
    return [after - before for before, after in itertools.pairwise(starts[1:])]


def time_ours(options: argparse.Namespace, *, ties: bool) -> list[float]:
    """Return the seconds of each of our optimizer steps, including advantages and manifest."""
    config = Config.model_validate(
        {
            "model": {"name": "tiny"},
            "game": {"group_size": G},
            "generation": {"max_completion_tokens": options.tokens + 1},
        }
    )
    with tempfile.TemporaryDirectory() as output:
        step_trainer = SourceGRPOTrainer(
            make_model(options.shape),
            build_tokenizer(),
            config,
            Path(output),
            device=options.device,
            dtype="float32" if options.device == "cpu" else "bfloat16",
        )
        seconds = []
        for step in range(options.steps + 1):
            begun = time.perf_counter()
            made = make_rollouts(step, options.rows, options.tokens, ties=ties)
            step_trainer.step(manifest(step, made, options.rows // options.accumulate))
            synchronise(options.device)
            seconds.append(time.perf_counter() - begun)
    return seconds[1:]


def manifest(step: int, made: Rollouts, micro_batch: int) -> Manifest:
    rows = []
    for start in range(0, len(made), G):
        members = made[start : start + G]
        outcomes = torch.tensor([reward for _, _, reward in members])
        group = GroupRows(outcomes, torch.ones(G, dtype=torch.bool), (0,) * G, ("",) * G, outcomes)
        for (prompt, ids, reward), weight in zip(members, weigh(group, TrainConfig()).tolist(), strict=True):
            rows.append(TrainingRow(Kind.POLICY, "local", "t", start, tuple(prompt), tuple(ids), "", reward, weight, 0))
    return Manifest(step, step, step, micro_batch, tuple(rows))


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--accumulate", type=int, default=1, help="micro-batches per step")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, alternating")
    options = parser.parse_args()
    print(f"{options.shape}, {options.rows} rows of up to {options.tokens} tokens, {options.device}")
    for ties, name in ((False, "no equal-reward groups"), (True, "half equal-reward groups")):
        trl, ours = [], []
        for _ in range(options.repeats):
            trl += time_trl(options, ties=ties)
            ours += time_ours(options, ties=ties)
        a, b = statistics.median(trl), statistics.median(ours)
        print(f"{name:24} plain TRL {a * 1e3:8.1f} ms   swarmctl {b * 1e3:8.1f} ms   speed ratio {a / b:.2f}")


if __name__ == "__main__":
    main()
