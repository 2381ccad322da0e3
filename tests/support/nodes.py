"""Small nodes for tests: an untrained model and a few rounds; everything else is real."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from hivemind_exp.config import Config
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.stop import StopFlag
from hivemind_exp.trainer.round_loop import NodeProgress
from tests.support.recorded_events import Events
from tests.support.spelling_task import Spelling

__all__ = ["ChanceRewards", "Events", "PacedRewards", "make_config", "run"]
PAUSE_S = 0.6
"""Pause per round of ``PacedRewards``."""


def make_config(**sections: dict[str, Any]) -> Config:
    """Return the configuration of a node that plays six rounds within seconds."""
    base: dict[str, dict[str, Any]] = {
        "node": {"name": "test", "seed": 3},
        "model": {"name": "tiny", "device": "cpu", "threads": 1},
        "game": {"rounds": 6, "groups": 3, "group_size": 4},
        "generation": {"max_completion_tokens": 8, "max_prompt_tokens": 64, "batch": 8},
        "train": {"learning_rate": 1e-3, "micro_batch": 5},
        "eval": {"every": 4, "questions": 6},
        "checkpoint": {"every": 2, "keep": 2},
    }
    for name, values in sections.items():
        base[name] = {**base.get(name, {}), **values}
    return Config.model_validate({**base, "tasks": ["spell_backward"]})


class ChanceRewards(Spelling):
    """Rates a random half of all answers as right, so that rewards differ within groups and steps are taken.

    Like real verifiers, it gives an answer the same reward in every prompt style.
    """

    def score(self, questions: Any, completions: Any) -> Any:
        from hivemind_exp.seeds import derive_seed
        from hivemind_exp.tasks.base import Score
        from hivemind_exp.tasks.verifiers.reader import read, reference_of

        found = [read(text, reference_of(each.entry)) for each, text in zip(questions, completions, strict=True)]
        answers = [
            text if reading is None else reading.answer for text, reading in zip(completions, found, strict=True)
        ]
        return [
            Score(float(derive_seed(question.digest, answer) % 2), True, "chance")
            for question, answer in zip(questions, answers, strict=True)
        ]


class PacedRewards(ChanceRewards):
    """``ChanceRewards`` with a pause, to run at the speed of a larger model and keep the machine usable."""

    def score(self, questions: Any, completions: Any) -> Any:
        time.sleep(PAUSE_S / 2)  # once for the node's own groups, once for peers' groups
        return super().score(questions, completions)


def run(config: Config, root: Path, *, stop: StopFlag | None = None, emit: Events | None = None) -> NodeProgress:
    """Run a node in this process."""
    root.mkdir(parents=True, exist_ok=True)
    return GRPORunner(config, NodeFiles(root), emit or Events(), stop=stop, make_tasks=lambda *_: ChanceRewards()).run()
