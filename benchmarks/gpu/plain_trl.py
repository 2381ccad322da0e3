"""Plain TRL's whole step with the same prompts, lengths and numbers: generation with transformers, then training."""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.gpu.models import G, Work, build, release, synchronize
from benchmarks.gpu.work import Cost, prompt_lengths
from hivemind_exp.models.tiny import build_tokenizer


class _Timed(GRPOTrainer):  # type: ignore[misc]
    """Adds up the seconds of generation."""

    work: Work
    generating = 0.0

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        synchronize(self.work)
        begun = time.perf_counter()
        inputs = super()._prepare_inputs(generation_batch)
        synchronize(self.work)
        self.generating += time.perf_counter() - begun
        return inputs


class _Steps(TrainerCallback):  # type: ignore[misc]
    """Measures each step after the first."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.trainer: _Timed | None = None
        self.whole: list[Cost] = []
        self.generation: list[Cost] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        synchronize(self.work)
        assert self.trainer is not None
        self.trainer.generating = 0.0
        if self.work.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        self.begun = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        assert self.trainer is not None
        synchronize(self.work)
        peak = torch.cuda.max_memory_allocated() if self.work.device.startswith("cuda") else float("nan")
        seconds = time.perf_counter() - self.begun
        self.whole.append(Cost(seconds, peak))
        self.generation.append(Cost(self.trainer.generating, peak, self.work.rows * self.work.tokens))


def measure(work: Work, steps: int, micro_batch: int = 16) -> tuple[list[Cost], list[Cost], list[Cost]]:
    """Return the costs of whole steps, of their generation and of their training, after two steps to warm up.

    Weights in bfloat16 on a GPU, as in TRL's examples.
    """
    tokenizer = build_tokenizer()
    dtype = getattr(torch, work.dtype)
    micro_batch = min(micro_batch, work.rows)
    texts = [length * "a" for seed in range(steps + 2) for length in prompt_lengths(work, seed)]
    timed = _Steps(work)
    with tempfile.TemporaryDirectory() as output:
        trainer = _Timed(
            model=build(work, dtype),
            reward_funcs=[lambda completions, **_: [float(place % 2) for place in range(len(completions))]],
            args=GRPOConfig(
                output_dir=output,
                use_cpu=work.device == "cpu",
                bf16=work.device != "cpu",
                max_steps=steps + 2,
                per_device_train_batch_size=micro_batch,
                gradient_accumulation_steps=work.rows // micro_batch,
                num_generations=G,
                max_completion_length=work.tokens,
                gradient_checkpointing=False,
                report_to="none",
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
                beta=0.0,
            ),
            train_dataset=Dataset.from_dict({"prompt": texts}),
            processing_class=tokenizer,
            callbacks=[timed],
        )
        trainer.work, timed.trainer = work, trainer
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    del trainer
    timed.trainer = None
    release()
    whole, generation = timed.whole[2:], timed.generation[2:]
    training = [Cost(a.seconds - b.seconds, a.peak) for a, b in zip(whole, generation, strict=True)]
    return whole, generation, training
