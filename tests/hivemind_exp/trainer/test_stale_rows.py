"""Completions that are dropped because they are too old are reported, and not at every step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hivemind_exp.rollouts.types import Group
from hivemind_exp.source_kinds import Kind
from hivemind_exp.trainer.stale_rows import StaleRows
from tests.support.nodes import make_config
from tests.support.peers import own_group
from tests.support.recorded_events import Events


def aged(lag: int | None, kind: Kind = Kind.POLICY) -> Group:
    group = own_group(kind=kind)
    return replace(group, rollouts=tuple(replace(each, lag=lag) for each in group.rollouts))


@pytest.mark.parametrize(
    ("offload", "helps"),
    [
        ({}, "Raise train.max_lag"),
        ({"provider": "vllm", "kind": "policy"}, "Lower offload.ahead (now 1)"),
    ],
)
def test_the_first_ones_are_reported_and_each_doubling(offload: dict[str, str], helps: str) -> None:
    events = Events()
    stale = StaleRows(make_config(train={"max_lag": 4}, offload=offload), events)
    stale.count([aged(0), aged(4), aged(None), aged(9, Kind.TEACHER)])
    assert events.of("warning") == []
    stale.count([aged(4), aged(5)])
    for _ in range(8):
        stale.count([aged(7)])
    told = [event["message"] for event in events.of("warning")]
    assert [int(message.split()[1]) for message in told] == [4, 8, 16, 32]
    assert told[0] == (
        "left 4 of the node's own completions out of steps so far, because they were more than train.max_lag = 4 steps "
        f"old. {helps}"
    )
