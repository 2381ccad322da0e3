"""Repeat a node's steps from a checkpoint and the journal, and compare their results with the recorded ones."""

import math
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hivemind_exp.config import Config
from hivemind_exp.errors import CheckpointError
from hivemind_exp.events import discard
from hivemind_exp.journal.audit import StepLog, StepOutcome
from hivemind_exp.journal.records import Manifest, contributions
from hivemind_exp.models.device import Compute, resolve_compute, use_threads
from hivemind_exp.models.loading import load_tokenizer
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.build_node import ModelBuilder
from hivemind_exp.stop import StopRequested
from hivemind_exp.trained.loading import Job
from hivemind_exp.trainer.checkpoints import Checkpoint
from hivemind_exp.trainer.conditions import Conditions
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer, StepAbandoned
from hivemind_exp.trainer.step_measures import StepResult

TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 2e-2}
"""How far a repeated step's results may be off where they cannot be the same bits: relative to the recorded gradient
norm, and for the loss relative to the larger of the recorded loss and ``LOSS_SCALE``."""
LOSS_SCALE = 0.1
"""A loss around 0 is the difference of larger numbers, so its own size says nothing about its precision."""


@dataclass(frozen=True, slots=True)
class ReplayCheck:
    """A repeated step's result beside the recorded one."""

    exact: bool
    """Whether the bits have to be the same."""
    tolerance: float
    """0 if they have to be."""
    same: bool | None
    """None: no result is recorded."""


def compare(result: StepResult, recorded: StepOutcome | None, now: Conditions) -> ReplayCheck:
    """Compare a repeated step's result with the recorded one."""
    if recorded is None:
        return ReplayCheck(False, 0.0, None)
    before = Conditions.parse(recorded.conditions)
    exact = before is not None and before.exact(now)
    tolerance = 0.0 if exact else max(TOLERANCE[dtype] for dtype in {now.dtype, getattr(before, "dtype", now.dtype)})
    pairs = (
        (result.loss, recorded.loss, max(abs(recorded.loss), LOSS_SCALE)),
        (result.grad_norm, recorded.grad_norm, abs(recorded.grad_norm)),
    )
    return ReplayCheck(exact, tolerance, all(_close(*pair, tolerance) for pair in pairs))


def _close(found: float, recorded: float, scale: float, tolerance: float) -> bool:
    if math.isnan(found) or math.isnan(recorded) or tolerance == 0 or math.inf in (abs(found), abs(recorded)):
        return found == recorded or (math.isnan(found) and math.isnan(recorded))
    return abs(found - recorded) <= tolerance * scale


def replay(job: Job) -> None:
    """Repeat the steps from the job's checkpoint (None: the start) up to ``step``. Emit the event ``step`` for each.

    Raises ``FileProblem`` if a step's rows are damaged, ``CheckpointError`` if they have been deleted meanwhile.
    """
    last, first = job.order["step"], 0 if job.checkpoint is None else job.checkpoint.step
    with closing(StepLog(job.files.journal)) as log:
        if missing := set(range(first, last + 1)).difference(log.kept()):
            raise CheckpointError(f"node {job.config.node.name} has just deleted the rows of step {min(missing) + 1}")
        with tempfile.TemporaryDirectory() as directory:
            for manifest, result, now in _steps(job, log, range(first, last + 1), Path(directory)):
                recorded = log.outcome(manifest.step)
                job.link.emit("step", **_report(log, manifest, result, recorded, now))


def _report(
    log: StepLog, manifest: Manifest, result: StepResult, recorded: StepOutcome | None, now: Conditions
) -> dict[str, Any]:
    round_, stage = log.stage(manifest.step) or (manifest.round, "answer")
    before = None if recorded is None else Conditions.parse(recorded.conditions)
    return {
        "step": manifest.step,
        "round": round_,
        "stage": stage,
        "loss": result.loss,
        "grad_norm": result.grad_norm,
        "rows": len(manifest.rows),
        "sources": [asdict(each) for each in contributions(manifest)],
        "recorded": None if recorded is None else {"loss": recorded.loss, "grad_norm": recorded.grad_norm},
        **asdict(compare(result, recorded, now)),
        "machine": _machine(now),
        "recorded_machine": None if before is None else _machine(before),
    }


def _machine(conditions: Conditions) -> dict[str, Any]:
    return {name: value for name, value in asdict(conditions).items() if name not in ("settings", "layout")}


def _steps(job: Job, log: StepLog, steps: range, directory: Path) -> Iterator[tuple[Manifest, StepResult, Conditions]]:
    """Take the steps, each under the settings under which it was recorded."""
    files = NodeFiles(directory)  # what the trainer's libraries write
    files.base = job.files.base
    link, checkpoint = job.link, job.checkpoint
    remaining = list(steps)
    while remaining:
        recorded = _conditions(log, remaining[0])
        with _trainer(job, files, checkpoint, recorded) as (trainer, now):
            while remaining and (same := _conditions(log, remaining[0])) in (recorded, None):
                recorded = recorded or same
                manifest = log.manifest(remaining.pop(0))
                link.phase(f"repeating step {manifest.step + 1}")
                try:
                    result = trainer.step(manifest, link.stop.is_set)
                except StepAbandoned as error:
                    raise StopRequested from error
                yield manifest, result, now
            if remaining:  # a run with other settings took the next step
                checkpoint = Checkpoint(directory / f"{remaining[0]:08d}", remaining[0], 0)
                checkpoint.path.mkdir()
                trainer.save(checkpoint.path)


def _conditions(log: StepLog, step: int) -> Conditions | None:
    outcome = log.outcome(step)
    return None if outcome is None else Conditions.parse(outcome.conditions)


@contextmanager
def _trainer(
    job: Job, files: NodeFiles, checkpoint: Checkpoint | None, recorded: Conditions | None
) -> Iterator[tuple[SourceGRPOTrainer, Conditions]]:
    """Build a step trainer in its state at the checkpoint, with the recorded settings; yield it and its conditions."""
    config, compute = _as_recorded(job.config, recorded)
    tokenizer = load_tokenizer(config.model, job.secrets.get("huggingface"))
    builder = ModelBuilder(config, files, discard, job.link.stop, job.secrets, compute)
    with closing(builder.step_trainer(tokenizer, None, checkpoint)) as trainer:
        yield trainer, Conditions.now(config, compute)


def _as_recorded(config: Config, recorded: Conditions | None) -> tuple[Config, Compute]:
    """Return the settings and the device with which to repeat a step; set the number of threads."""
    reports = type(config.report)()
    config = config.model_copy(update={"report": reports, "hub": type(config.hub)()})
    use_threads(config.model)
    if recorded is None:
        return config, resolve_compute(config.model)
    config = recorded.apply(config)
    compute = resolve_compute(config.model)
    dtype = compute.dtype if recorded.dtype == "float16" and compute.device == "cpu" else recorded.dtype
    config = config.model_copy(update={"model": config.model.model_copy(update={"dtype": dtype})})
    if compute.device == recorded.device == "cpu":
        torch.set_num_threads(recorded.threads)
    return config, resolve_compute(config.model)
