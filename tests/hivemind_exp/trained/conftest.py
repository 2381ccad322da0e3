"""Nodes that have trained for two rounds: with all weights, and with adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import Config
from hivemind_exp.events import discard
from hivemind_exp.game.prompt_style import TAGS_STYLE
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.tasks.base import Question, Score
from hivemind_exp.trained import answering
from hivemind_exp.trained.link import Link
from hivemind_exp.trained.loading import Job
from hivemind_exp.trainer.checkpoints import Checkpoint, find
from tests.support.nodes import make_config
from tests.support.spelling_task import Spelling


@dataclass(frozen=True)
class Trained:
    """A node that has trained."""

    config: Config
    files: NodeFiles

    @property
    def newest(self) -> Checkpoint:
        found = find(self.files.checkpoints)
        assert found is not None
        return found

    def job(self, order: dict[str, Any], link: Link) -> Job:
        """Return a job with the newest checkpoint."""
        return Job(self.config, self.files, self.newest, {"style": asdict(TAGS_STYLE)} | order, link)


class EveryOther(Spelling):
    """Rates every other completion as correct, so that steps are taken whatever the model writes."""

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:  # noqa: ARG002
        return [Score(float(number % 2), True, "numbered") for number, _ in enumerate(completions)]


def _train(root: Path, *, lora: bool) -> Trained:
    train = {"learning_rate": 0.05, "warmup_steps": 0}
    config = make_config(model={"lora": lora}, game={"rounds": 2}, checkpoint={"every": 1}, train=train)
    root.mkdir(exist_ok=True)
    GRPORunner(config, NodeFiles(root), discard, make_tasks=lambda *_: EveryOther()).run()
    return Trained(config, NodeFiles(root))


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return _train(tmp_path_factory.mktemp("full"), lora=False)


@pytest.fixture(scope="session")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return _train(tmp_path_factory.mktemp("adapted"), lora=True)


@pytest.fixture(params=["full", "adapted"])
def either(request: pytest.FixtureRequest) -> Trained:
    found: Trained = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the node's tasks with one that needs no worker."""

    @contextmanager
    def own_tasks(*_: Any) -> Iterator[Spelling]:
        yield Spelling()

    monkeypatch.setattr(answering, "own_tasks", own_tasks)


def contents(root: Path) -> dict[str, bytes]:
    """Return every file of a directory."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
