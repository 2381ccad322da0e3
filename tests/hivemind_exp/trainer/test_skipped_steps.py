"""A node that skips step after step learns nothing, and must not keep running as if it did."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.errors import NodeError
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer
from hivemind_exp.trainer.skipped_steps import MOST_SKIPPED
from hivemind_exp.trainer.step_measures import StepResult
from tests.support.nodes import Events, make_config, run

pytestmark = pytest.mark.slow


@pytest.fixture
def never_finite(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Make the gradient of every step not finite, except for the steps in the returned set."""
    finite: set[int] = set()
    take = SourceGRPOTrainer.step

    def fail(self: SourceGRPOTrainer, manifest: Any, *rest: Any) -> StepResult:
        result = take(self, manifest, *rest)
        return result if manifest.step in finite else replace(result, grad_norm=float("nan"))

    monkeypatch.setattr(SourceGRPOTrainer, "step", fail)
    return finite


@pytest.mark.parametrize(
    ("dtype", "fix"),
    [
        ("bfloat16", "swarmctl run --node test --set model.dtype=float32"),
        ("float32", "swarmctl run --set node.seed=4 --set train.learning_rate=0.0001"),
    ],
)
def test_too_many_skipped_steps_in_a_row_end_the_node_with_a_fix(
    tmp_path: Path, never_finite: set[int], dtype: str, fix: str
) -> None:
    events, config = Events(), make_config(game={"rounds": MOST_SKIPPED + 4}, model={"dtype": dtype})
    with pytest.raises(NodeError, match="no gradient was finite") as caught:
        run(config, tmp_path / "node", emit=events)
    assert caught.value.next == fix
    assert len(events.of("warning")) == MOST_SKIPPED
    assert events.of("warning")[0]["message"].startswith("skipped step 1:")


def test_a_finite_step_resets_the_count(tmp_path: Path, never_finite: set[int]) -> None:
    never_finite.add(2)
    progress = run(make_config(game={"rounds": MOST_SKIPPED + 2}), tmp_path / "node")
    assert progress.step == MOST_SKIPPED + 2
