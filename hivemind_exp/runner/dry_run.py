"""What a dry run reports: this machine, the model and the tasks.

It imports no training library, and transformers only to check a model that is on this machine: each takes seconds.
"""

from dataclasses import asdict
from typing import Any

from hivemind_exp.config import Config
from hivemind_exp.models.device import available_memory, resolve_compute, share_gpus
from hivemind_exp.models.fused_kernels import are_used, check_fused
from hivemind_exp.models.memory import USUAL_PROMPT, estimate
from hivemind_exp.models.model_location import locate_model
from hivemind_exp.models.quantized import check_quantized
from hivemind_exp.runner.report_packages import check_reports
from hivemind_exp.tasks.registry import check_tasks, check_warmup, title


def describe(config: Config) -> dict[str, Any]:
    """Return a dry run's report on this machine, the model and the tasks. Changes nothing. Raises ``NodeError``."""
    check_warmup(config)
    check_reports(config)
    compute = resolve_compute(config.model)
    processes = config.train.processes
    if processes > 1 and config.model.device != "cpu":
        share_gpus(processes)
    check_quantized(config, compute.device)
    check_fused(config.model, compute.device)
    check_tasks(config.tasks)
    where = locate_model(config.model)
    if where.directory is not None:
        from hivemind_exp.models.loading import locate, rehearse  # imports transformers

        where = locate(config.model)
        rehearse(config)
    half, fused = compute.dtype != "float32", are_used(config.model, compute.device)
    most, usual = (
        None if where.shape is None else estimate(config, where.shape, half=half, fused=fused, prompt=prompt).peak
        for prompt in (None, USUAL_PROMPT)
    )
    return {
        **asdict(compute),
        "processes": processes,
        "model": {"name": config.model.name, "where": where.place, "parameters": where.parameters},
        "tasks": list(map(title, config.tasks)),
        "memory_bytes": most,
        "memory_usual_bytes": usual,
        "memory_available_bytes": _available(compute.device, processes),
    }


def _available(device: str, processes: int) -> int | None:
    """Return the bytes that each of a node's processes may use on its device; None if a driver does not report them."""
    if device != "cuda" or processes == 1:
        memory = available_memory(device)
        return None if memory is None else memory // processes
    found = [available_memory(f"cuda:{place}") for place in range(processes)]
    return min(each for each in found if each is not None)
