"""Steps of several processes on the tiny model, and what compares them with those of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from hivemind_exp.config import Config
from hivemind_exp.events import discard
from hivemind_exp.journal.records import Manifest
from hivemind_exp.models.device import Compute
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.parallel.team import Team
from hivemind_exp.runner.build_node import ModelBuilder
from hivemind_exp.secrets import Secrets
from hivemind_exp.source_kinds import Kind
from hivemind_exp.stop import StopFlag
from hivemind_exp.trainer.advantages import build_rows, count_tokens
from hivemind_exp.trainer.checkpoints import Checkpoint
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer
from hivemind_exp.trainer.step_measures import StepResult
from tests.support.nodes import make_config
from tests.support.processes import is_alive
from tests.support.setting_effects import GROUPS
from tests.support.step_trainers import TOKENIZER

STEPS = 3
LARGE = {"learning_rate": 1e-3, "warmup_steps": 0, "beta": 0.1, "peer_loss": "sapo", "micro_batch": 3}
CLOSE: dict[str, Any] = {"rel": 1e-4, "abs": 1e-5}


def config(processes: int, *, shard: bool = False, **model: Any) -> Config:
    """Return settings with large steps."""
    return make_config(train=LARGE | {"processes": processes, "shard": shard}, model=model)


def trainer(settings: Config, root: Path, checkpoint: Path | None = None) -> SourceGRPOTrainer:
    """Return a step trainer of the tiny model, in its state at a checkpoint."""
    compute = Compute("cpu", "float32", None)
    builder = ModelBuilder(settings, NodeFiles(root), discard, StopFlag(), Secrets(), compute)
    return builder.step_trainer(TOKENIZER, None, None if checkpoint is None else Checkpoint(checkpoint, 0, 0))


@contextmanager
def two(
    settings: Config, root: Path, stop: StopFlag | None = None, checkpoint: Path | None = None
) -> Iterator[tuple[Team, SourceGRPOTrainer]]:
    """Start a trainer that leads another process, in its state at a checkpoint; end both."""
    root.mkdir(exist_ok=True)
    (root / "lock").touch()
    team = Team(settings, NodeFiles(root), stop or StopFlag(), device="cpu", dtype="float32")
    with closing(team):
        made = trainer(settings, root, checkpoint)
        team.ask("load", checkpoint and [str(checkpoint), 0, 0])
        made.lead(team)
        yield team, made
    assert not any(map(is_alive, team.pids))


def manifest(settings: Config, step: int, micro_batch: int = 3) -> Manifest:
    """Return a step on rows of own, a teacher's and a peer's kind, which have different losses."""
    rows, tokens = tuple(build_rows(GROUPS, settings.train, {})), count_tokens(GROUPS, settings.train)
    assert {row.kind for row in rows} == {Kind.POLICY, Kind.TEACHER, Kind.PEER}
    return Manifest(step, 0, step, micro_batch, rows, floor=-4.6, tokens=tokens)


def weights(step_trainer: SourceGRPOTrainer) -> list[torch.Tensor]:
    """Return copies of the trained weights."""
    return [each.detach().clone() for each in step_trainer.trainable()]


def differ(some: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """Return the largest difference."""
    return max(float((one - other).abs().max()) for one, other in zip(some, others, strict=True))


def same(one: StepResult, several: StepResult) -> None:
    """Assert that two steps measured the same, except for rounding."""
    for name in ("loss", "grad_norm", "learning_rate", "tokens", "rows"):
        assert getattr(several, name) == pytest.approx(getattr(one, name), **CLOSE), name
    assert several.by_kind.keys() == one.by_kind.keys()
    for kind, values in one.by_kind.items():
        assert several.by_kind[kind].keys() == values.keys()
        for name, value in values.items():
            expected = value if value is None else pytest.approx(value, **CLOSE)
            assert several.by_kind[kind][name] == expected, (kind, name)
