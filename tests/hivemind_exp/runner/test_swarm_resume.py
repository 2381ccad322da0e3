"""A swarm's node that is stopped at any point learns from the same peers' groups as without the stop."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from hivemind_exp.config import Config
from hivemind_exp.events import Emit
from hivemind_exp.journal.journal import Journal
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.peers.bundle import Bundle
from hivemind_exp.runner import build_swarm as swarming
from hivemind_exp.runner.build_swarm import SwarmSession
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.source_kinds import Kind
from hivemind_exp.stop import StopFlag, StopRequested
from hivemind_exp.swarm.charter import Charter
from hivemind_exp.swarm.charter_check import applied
from hivemind_exp.swarm.node import SwarmNode
from tests.support.charters import charter, words
from tests.support.nodes import ChanceRewards, Events, make_config
from tests.support.peers import Letter, shared_group
from tests.support.restarts import Interrupter

RULES = charter(t0=1_700_000_000, group_size=4, tasks=(words(params={}, weight_ppm=1_000_000),))
PEERS = ("peer a", "peer b", "peer c")


class Answering:
    """Stands in for the node's connection to its swarm. Three peers answer each bundle with one for the same round."""

    peer_id = "12D3KooWMe"

    def __init__(self) -> None:
        self._waiting: list[Letter] = []

    def publish(self, _bundle: bytes, *, round: int, **_: object) -> None:
        for number, peer in enumerate(PEERS):
            group = shared_group(number, round_=round, texts=tuple(f"{number}{place}x" for place in range(4)))
            self._waiting.append(Letter(peer, Bundle(RULES.id, peer, round, "answer", (group,)).pack()))

    def take(self) -> list[Letter]:
        found, self._waiting = self._waiting, []
        return found


@pytest.fixture(autouse=True)
def _swarm_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def opened(config: Config, files: NodeFiles, emit: Emit, _stop: StopFlag) -> Iterator[SwarmSession]:
        files.swarm.mkdir(exist_ok=True)
        rules: Charter = RULES
        yield SwarmSession(rules, applied(rules, config), cast(SwarmNode, Answering()), files, emit)

    monkeypatch.setattr(swarming, "open_swarm", opened)


def run(root: Path, *, stop: StopFlag | None = None, emit: Any = None) -> Events:
    root.mkdir(parents=True, exist_ok=True)
    config = make_config(swarm={"join": f"swarm1:{RULES.id}"})
    events = emit or Events()
    GRPORunner(config, NodeFiles(root), events, stop=stop, make_tasks=lambda *_: ChanceRewards()).run()
    return events


def drawn(root: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(root / "journal.sqlite")) as db:
        return db.execute(
            "SELECT round, question, idx, source, text, outcome FROM completions WHERE kind='peer' ORDER BY 1, 2, 3"
        ).fetchall()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole") / "node"


@pytest.mark.slow
def test_peers_groups_are_learned_from_and_reported(whole: Path) -> None:
    events = run(whole)
    reported = [each for each in events.of("rollouts") if each["source"] == "peer"]
    assert len(reported) == 6
    assert {each["source"] for each in events.of("step")} >= {"policy", "peer"}
    assert all("filtered" in each for each in events.of("step") if each["source"] == "peer")
    assert len(events.of("share")) == 6
    # Time with peers is counted separately, so the speed is that of the node's own completions.
    assert all(each["seconds"]["share"] > 0 for each in events.of("round"))
    with closing(Journal(whole / "journal.sqlite", RULES.id)) as journal:
        lessons = journal.contributions(100)
        assert {lesson.source for lesson in lessons if lesson.kind is Kind.PEER} == set(PEERS)
        floors = [manifest.floor for manifest in journal.manifests(4)]
    assert len(floors) == 2
    assert None not in floors


@pytest.mark.slow
@pytest.mark.parametrize(("name", "number"), [("share", 1), ("share", 3), ("rollouts", 5), ("checkpoint", 2)])
def test_a_stop_at_any_point_changes_no_batch(whole: Path, tmp_path: Path, name: str, number: int) -> None:
    if not whole.exists():
        run(whole)
    stop = StopFlag()
    with pytest.raises(StopRequested):
        run(tmp_path / "cut", stop=stop, emit=Interrupter(stop, number, name))
    run(tmp_path / "cut")
    assert drawn(tmp_path / "cut") == drawn(whole)
    assert len(drawn(whole)) > 0
