"""What several modules of tests here share."""

from __future__ import annotations

from pathlib import Path

import pytest

from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer
from tests.support.step_trainers import make_step_trainer


@pytest.fixture
def step_trainer(tmp_path: Path) -> SourceGRPOTrainer:
    return make_step_trainer(tmp_path)
