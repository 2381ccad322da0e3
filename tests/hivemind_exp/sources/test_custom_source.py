"""A custom source: one module with a class and ``build``, and a line in the registry.

It stands in for a server that this node pushes its weights to: a copy of the model that lags behind on purpose.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from hivemind_exp.journal.records import TrainingRow
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.rollouts.types import Group
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.source_kinds import POLICY_SERVER, Kind
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.sources.registry import SOURCES, SourceEntry
from hivemind_exp.sources.source import Ask, NodeParts, Source
from tests.support.nodes import ChanceRewards, make_config
from tests.support.recorded_events import Events

PUSHED_EVERY = 2
ROUNDS = 5


class LaggingCopy(Source):
    """Samples from the weights that were pushed last."""

    name = "served"
    kind = Kind.POLICY

    def __init__(self, parts: NodeParts) -> None:
        assert parts.model is not None
        assert parts.tokenizer is not None
        self._model: nn.Module = parts.model
        self._served = copy.deepcopy(parts.model)
        self._sampler = LocalSource(self._served, parts.tokenizer, parts.config.generation, parts.stop)
        self._version = self._pushed = 0
        self.heard: list[int] = []
        self.asked: list[Ask] = []
        self.taught: list[TrainingRow] = []
        self.closed = False

    def request(self, ask: Ask) -> None:
        self.asked.append(ask)

    def collect(self, ask: Ask) -> list[list[Group]]:
        made = []
        for prompt, places in ask.empty:
            (rows,) = self._sampler.generate([prompt], len(places), seed=ask.stage_run.round)
            lag = self._version - self._pushed
            made.append(Group(prompt, tuple(replace(row, source=self.name, lag=lag) for row in rows), places=places))
        return [made]

    def weights_moved(self, version: int) -> None:
        self.heard.append(version)
        self._version = version
        if version % PUSHED_EVERY == 0:
            self._served.load_state_dict(self._model.state_dict())
            self._pushed = version

    def learned_from(self, rows: Sequence[TrainingRow]) -> None:
        self.taught += [row for row in rows if row.source == self.name]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[LaggingCopy]:
    """Add a line to the registry, and return the list of the sources that it builds."""
    found: list[LaggingCopy] = []

    def build(parts: NodeParts) -> LaggingCopy:
        found.append(LaggingCopy(parts))
        return found[-1]

    monkeypatch.setitem(SOURCES, POLICY_SERVER, SourceEntry(build))
    return found


def play(root: Path, rounds: int = ROUNDS) -> Events:
    root.mkdir(exist_ok=True)
    box = {"base_url": "http://127.0.0.1:9/v1", "model": "own", "free": True}
    offload = {"provider": "box", "kind": "policy", "share": 0.5}
    config = make_config(game={"rounds": rounds}, offload=offload, providers={"box": box})
    events = Events()
    GRPORunner(config, NodeFiles(root), events, make_tasks=lambda *_: ChanceRewards()).run()
    return events


@pytest.mark.slow
def test_a_custom_source_fills_its_slots_and_is_learned_from(tmp_path: Path, built: list[LaggingCopy]) -> None:
    events = play(tmp_path / "node")
    (served,) = built
    assert [event["count"] for event in events.of("rollouts")] == [3 * 4] * ROUNDS
    assert {event["source"] for event in events.of("step")} == {"policy"}
    # All five rounds are requested, one of them ahead, and none beyond the last.
    assert {ask.stage_run.round for ask in served.asked} == set(range(ROUNDS))
    assert [ask.stage_run.round for ask in served.asked][:2] == [0, 1]
    assert {ask.places for ask in served.asked} == {range(2, 4)}
    assert served.heard == list(range(ROUNDS + 1))
    assert len(served.taught) == ROUNDS * 3 * 2
    assert {row.lag for row in served.taught} == {0, 1}
    assert served.closed


@pytest.mark.slow
def test_its_rollouts_are_in_the_journal_and_replays_are_not_reported(tmp_path: Path, built: list[LaggingCopy]) -> None:
    play(tmp_path / "node", 2)
    again = play(tmp_path / "node", 3)
    first, second = built
    assert second.heard[0] == 2
    assert len(second.taught) == 3 * 2
    assert [event["round"] for event in again.of("round")] == [2]
    assert {row.group for row in first.taught} == {0, 1, 2}
