"""A node for the tests of commands that show nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hivemind_exp.config import Config
from hivemind_exp.event_log import EventLog
from hivemind_exp.events import (
    EvalEvent,
    RoundEvent,
    StartEvent,
    StepEvent,
)
from hivemind_exp.node_files import NodeFiles
from swarmctl.nodes.directory import opened


@pytest.fixture
def node() -> Iterator[NodeFiles]:
    """A running node that has finished two rounds."""
    config = Config.model_validate({"node": {"name": "maths"}})
    with opened(config, lambda name: name) as opened_node:
        files = opened_node.files
        emit = EventLog(files.events)
        emit(StartEvent(node="maths", tasks=["spell_backward"], seed=0, rounds=5, groups=2, group_size=4))
        emit(EvalEvent(round=0, accuracy=0.25, questions=200))
        for round_ in range(2):
            emit(
                StepEvent(
                    step=round_,
                    round=round_,
                    stage="answer",
                    loss=0.1,
                    grad_norm=1.0,
                    learning_rate=1e-4,
                    tokens=80,
                    rows=8,
                    source="policy",
                    replayed=False,
                )
            )
            emit(RoundEvent(round=round_, rounds=5, seconds={"train": 1.0}, tokens_per_second=1.0))
        emit(EvalEvent(round=2, accuracy=0.5, questions=200))
        emit.close()
        files.log.write_text("".join(f"line {n}\n" for n in range(50)) + "colour\x1b[31m\n")
        yield files
