"""Measure the peak GPU memory of a training step with and without ``model.gradient_checkpointing``, side by side.

Takes the same steps with all weights trained and with adapters (LoRA), off and on in turn, each with a new model.
Prints the median peak with its spread (least to most), the ratio off / on, the same without what was allocated before
the step (weights and optimizer), and what it costs in time. Needs a CUDA device.

    python -m benchmarks.checkpointing_memory --shape qwen2.5-0.5b --rows 8 --tokens 1024
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.train_step import SHAPES, G, make_model, make_rollouts, manifest
from hivemind_exp.config import Config
from hivemind_exp.models.loading import adapter_config
from hivemind_exp.models.tiny import build_tokenizer
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer

GIB = 2**30
WARM_UP = 2
"""Steps that are not measured: the first allocates the optimizer's moments."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One step."""

    peak: int
    """Bytes allocated at most."""
    above: int
    """The part of ``peak`` that was not allocated before the step."""
    seconds: float


def measure(options: argparse.Namespace, *, lora: bool, checkpointing: bool) -> list[Measured]:
    """Take steps with a new model, and return each one after the warm-up."""
    config = Config.model_validate(
        {
            "model": {"lora": lora, "gradient_checkpointing": checkpointing},
            "game": {"group_size": G},
            "generation": {"max_completion_tokens": options.tokens + 1},
        }
    )
    found = []
    with tempfile.TemporaryDirectory() as output:
        model = make_model(options.shape).to(torch.bfloat16 if lora else torch.float32)
        step_trainer = SourceGRPOTrainer(
            model,
            build_tokenizer(),
            config,
            Path(output),
            device="cuda",
            dtype="bfloat16",
            peft_config=adapter_config(config.model.lora),
        )
        for step in range(WARM_UP + options.steps):
            work = manifest(step, make_rollouts(step, options.rows, options.tokens, ties=False), options.micro_batch)
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before, begun = torch.cuda.memory_allocated(), time.perf_counter()
            step_trainer.step(work)
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated()
            found.append(Measured(peak, peak - before, time.perf_counter() - begun))
        step_trainer.close()
    del step_trainer, model
    gc.collect()
    torch.cuda.empty_cache()
    return found[WARM_UP:]


def spread(off: list[float], on: list[float], unit: str, scale: float) -> str:
    """Return both medians, each with its least and most, and their ratio."""
    texts = [
        f"{statistics.median(values) / scale:7.2f} {unit} ({min(values) / scale:.2f} to {max(values) / scale:.2f})"
        for values in (off, on)
    ]
    return f"off {texts[0]}   on {texts[1]}   off / on {statistics.median(off) / statistics.median(on):.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen2.5-0.5b")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="measured steps of each run")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, alternating")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("error: this benchmark needs a CUDA device", file=sys.stderr)
        return 2
    print(f"{torch.cuda.get_device_name()}: {options.shape}, {options.rows} rows of up to {options.tokens} tokens")
    for lora in (False, True):
        runs: dict[bool, list[Measured]] = {False: [], True: []}
        for _ in range(options.repeats):
            for checkpointing in runs:
                runs[checkpointing] += measure(options, lora=lora, checkpointing=checkpointing)
        off, on = runs[False], runs[True]
        print("adapters (LoRA)" if lora else "all weights")
        print("  peak            ", spread([each.peak for each in off], [each.peak for each in on], "GiB", GIB))
        print("  above the rest  ", spread([each.above for each in off], [each.above for each in on], "GiB", GIB))
        print("  seconds         ", spread([each.seconds for each in off], [each.seconds for each in on], "s", 1.0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
