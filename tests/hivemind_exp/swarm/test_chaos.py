"""Four real nodes on a real network, whose trainers and daemons are killed, frozen and restarted at random."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.chaos.disturber import DEADLY, What, plan
from tests.support.chaos.nodes import ForkedSwarm
from tests.support.chaos.storm import SMALL, gather, teller, weather


@pytest.mark.swarm
def test_random_failures_lose_no_round_and_leave_nothing_behind(tmp_path: Path) -> None:
    say = teller()
    names = ("ada", "bert", "cleo", "dan")
    with ForkedSwarm(tmp_path, names, settings=SMALL) as swarm:
        gather(swarm, say)
        outcome = weather(swarm, tmp_path / "observer", seed=5, seconds=12, every=1.5, longest=3, say=say)
        assert outcome.faults == []
        assert swarm.founder.deaths >= 1
        assert sum(outcome.lives) > len(names)
        assert len(outcome.stored.records) >= len(names)


def test_the_plan_of_failures_follows_from_its_seed_and_hits_every_node() -> None:
    acts = plan(5, nodes=4, seconds=60, every=1.5, longest=3)
    assert acts == plan(5, nodes=4, seconds=60, every=1.5, longest=3)
    assert acts != plan(6, nodes=4, seconds=60, every=1.5, longest=3)
    assert {act.what for act in acts} == set(What)
    assert {act.node for act in acts} == set(range(4))
    assert acts[0].node == 0
    assert acts[0].what in DEADLY
    assert all(0 <= act.seconds <= 3 and 0 <= act.at < 60 for act in acts)
