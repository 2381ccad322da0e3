"""What a node prepares before its first step."""

from __future__ import annotations

from pathlib import Path

import pytest

from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner import build_node
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.tasks.base import Question, Split
from tests.support.nodes import Events, make_config
from tests.support.spelling_task import Spelling


class Counting(Spelling):
    """Records how many questions were asked for."""

    def __init__(self, asked: list[tuple[int, int]]) -> None:
        super().__init__()
        self._asked = asked

    def questions(self, split: Split, round: int, count: int) -> list[Question]:
        self._asked.append((round, count))
        return super().questions(split, round, count)


@pytest.mark.parametrize(("most", "built"), [(8192, 15), (10, 10)])
def test_a_short_warm_up_builds_only_the_demonstrations_that_it_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, built: int
) -> None:
    monkeypatch.setattr(build_node, "_WARMUP_EXAMPLES", most)
    asked: list[tuple[int, int]] = []
    config = make_config(warmup={"steps": 3, "batch": 5}, game={"rounds": 1}, eval={"every": 0})
    GRPORunner(config, NodeFiles(tmp_path), Events(), make_tasks=lambda *_: Counting(asked)).run()
    assert [count for round_, count in asked if round_ == -1] == [built]
