"""A node's directory with a checkpoint, and a process that answers as scripted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import Config
from hivemind_exp.events import discard
from hivemind_exp.trainer.checkpoints import CheckpointStore
from swarmctl.nodes.directory import identity
from swarmctl.storage.json_file import write_json
from swarmctl.trained.target import TrainedNode

Script = Callable[..., list[dict[str, Any]]]


def make_node(home: Path, name: str = "small", *, checkpoint: bool = True, **sections: dict[str, Any]) -> Path:
    """Create a node that has run, without starting a trainer."""
    config = Config.model_validate(
        {"model": {"name": "tiny"}, "tasks": ["spell_backward"], "node": {"name": name}} | sections
    )
    root = home / "nodes" / name
    root.mkdir(parents=True)
    write_json(root / "node.json", identity(config))
    body = config.model_dump(mode="json")
    write_json(root / "config.json", {"schema": 1, "profile": "demo", "overrides": {}, "config": body})
    if checkpoint:
        store = CheckpointStore(root / "checkpoints", 3, discard)
        store.save(40, 20, lambda directory: (directory / "model").mkdir())
    return root


class ScriptedProcess:
    """Stands in for ``ModelProcess``: emits the scripted events, and records what it is sent."""

    def __init__(self, events: Iterator[dict[str, Any]]) -> None:
        self._events = events
        self.said: list[str] = []
        self.interrupts = 0

    def events(self, *last: str) -> Iterator[dict[str, Any]]:
        for event in self._events:
            if isinstance(event, BaseException):
                raise event
            yield event
            if event["event"] in last:
                return

    def say(self, text: str) -> None:
        self.said.append(text)

    def interrupt(self) -> None:
        self.interrupts += 1


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Let a module's process emit events instead of loading a model; return what it was started with."""

    def use(module: str, events: list[Any]) -> dict[str, Any]:
        started: dict[str, Any] = {}

        @contextmanager
        def model_process(mode: str, node: TrainedNode, **more: Any) -> Iterator[ScriptedProcess]:
            process = ScriptedProcess(iter(events))
            started.update(mode=mode, node=node, process=process, **more)
            yield process

        monkeypatch.setattr(f"swarmctl.trained.{module}.model_process", model_process)
        return started

    return use
