"""Test a matrix product and a training step. Reads a configuration as JSON, and prints a JSON object.

For ``swarmctl doctor --deep``. Downloads nothing and keeps nothing. The weights are random. They have the model's shape
if its configuration is on this machine and the device can handle it, otherwise the shape of "tiny".
"""

import contextlib
import json
import math
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hivemind_exp.config import Config, ModelConfig
from hivemind_exp.errors import NodeError, OutOfMemory
from hivemind_exp.models.out_of_memory import what_ran_out
from hivemind_exp.processes.imports import leave_out, uncollected

SECONDS = 150
"""The test ends after this many seconds, in case the caller is gone."""
LARGE_FOR_A_CPU = 20_000_000
"""Parameters above which a step on a CPU takes too long for a test."""
_SIDE = 1024
_TINY_LENGTH = 120


def main() -> int:
    """Run the test. Returns 0 if it passed."""
    signal.alarm(SECONDS)
    with contextlib.redirect_stdout(sys.stderr):
        try:
            answer = measure(Config.model_validate_json(sys.stdin.read()))
        except NodeError as error:
            answer = {"error": error.message, "next": error.next, "out_of_memory": isinstance(error, OutOfMemory)}
        except Exception as error:  # noqa: BLE001 - any error from torch is a finding
            text = str(error).strip().splitlines() or [""]
            short = what_ran_out(error) is not None
            answer = {"error": f"{type(error).__name__}: {text[0]}", "next": None, "out_of_memory": short}
    print(json.dumps(answer))
    return int("error" in answer)


def measure(config: Config) -> dict[str, Any]:
    """Run the matrix product and the step, and return the results. Raises ``NodeError``, or any error from torch."""
    from hivemind_exp.models.device import pin_device, resolve_compute

    device = pin_device(config.model.device)
    import torch

    model = config.model.model_copy(update={"device": device})
    compute = resolve_compute(model)
    left, right = torch.randn(2, _SIDE, _SIDE, dtype=torch.float64)
    expected = left @ right
    found = (left.float().to(compute.device) @ right.float().to(compute.device)).double().cpu()
    error = float((found - expected).norm() / expected.norm())
    if not error < 0.01:  # also true for NaN; TF32 has a 10-bit mantissa
        raise NodeError(f"wrong result of a matrix product on {compute.device}: relative error {error:.2g}")
    with tempfile.TemporaryDirectory() as directory:
        step = take_step(config.model_copy(update={"model": model}), compute.device, compute.dtype, Path(directory))
    return {"device": compute.accelerator or compute.device, "dtype": compute.dtype, **step}


def take_step(config: Config, device: str, dtype: str, directory: Path) -> dict[str, Any]:
    """Take two optimizer steps on made-up tokens, and time the second: the first one compiles and allocates."""
    import torch

    with uncollected():
        from hivemind_exp.journal.records import Manifest, TrainingRow
        from hivemind_exp.models.loading import adapter_config
        from hivemind_exp.models.tiny import build_tokenizer
        from hivemind_exp.source_kinds import Kind
        from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer

    tokenizer = build_tokenizer()
    model, name = _model(config.model, device, dtype, divided=config.train.shard)
    config = config.model_copy(update={"train": config.train.model_copy(update={"processes": 1, "shard": False})})
    tiny = name == "tiny"
    prompt = min(config.generation.max_prompt_tokens, _TINY_LENGTH if tiny else sys.maxsize)
    completion = min(config.generation.max_completion_tokens, _TINY_LENGTH if tiny else sys.maxsize)
    report = config.report.model_copy(update={"to": []})
    step_trainer = SourceGRPOTrainer(
        model,
        tokenizer,
        config.model_copy(update={"report": report}),
        directory,
        device=device,
        dtype=dtype,
        peft_config=adapter_config(config.model.lora),
    )
    ids = tuple(number % 90 + 3 for number in range(completion))
    # Prompts of unequal length get padding, and masked rows are where kernels fail.
    wanted = config.train.micro_batch
    rows = config.game.groups * config.game.group_size if wanted == "auto" else wanted
    prompts = [(5,) * max(1, prompt - 7 * i) for i in range(rows)]
    made = [
        TrainingRow(Kind.POLICY, "selftest", "selftest", 0, prompts[i], ids, "", 1.0, 1.0 if i % 2 else -1.0, 0)
        for i in range(rows)
    ]
    used = [rows]
    for step in range(2):
        began = time.perf_counter()
        rows = min(used[-1], step_trainer.micro_batch(made))
        manifest = Manifest(step, 0, 0, rows, tuple(made[:rows]))
        result = step_trainer.step(manifest, shrunk=lambda smaller, _: used.append(smaller.micro_batch))
        rows = min(rows, used[-1])
        seconds = time.perf_counter() - began
    step_trainer.close()
    if not math.isfinite(result.grad_norm):
        raise NodeError(f"the gradient of a training step on {device} is not finite")
    peak = torch.cuda.max_memory_allocated() if device.startswith("cuda") else None
    return {"model": name, "rows": rows, "tokens": prompt + completion, "seconds": seconds, "peak_bytes": peak}


def _model(config: ModelConfig, device: str, dtype: str, *, divided: bool) -> tuple[Any, str]:
    """Return a model with random weights, in the dtype for training them or keeping them frozen, and its name.

    ``divided``: the node divides its model, so it need not fit here.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from hivemind_exp.models.loading import locate
    from hivemind_exp.models.tiny import build_model, build_tokenizer

    where = locate(config)
    too_slow = device == "cpu" and (where.parameters or 0) > LARGE_FOR_A_CPU
    if where.parameters is None or too_slow or divided or config.name == "tiny":
        return build_model(build_tokenizer(), 0), "tiny"
    shape = AutoConfig.from_pretrained(
        config.name, revision=config.revision, local_files_only=True, trust_remote_code=False
    )
    stored = getattr(torch, dtype) if config.lora is not None else torch.float32
    return AutoModelForCausalLM.from_config(shape, dtype=stored, trust_remote_code=False), config.name


if __name__ == "__main__":
    leave_out("trackio", "wandb")
    sys.exit(main())
