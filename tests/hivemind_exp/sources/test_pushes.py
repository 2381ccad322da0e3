"""Which pushes a server may answer with, and how many are under way, of servers that are slow or never answer."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest

from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.pushed_weights import remembered
from hivemind_exp.sources.pushes import Pushes
from hivemind_exp.sources.schedule import AHEAD, AHEAD_OF_WHOLE_WEIGHTS
from tests.support.policy_server_nodes import rows
from tests.support.waiting import until


class FailsMeanwhile(Future[None]):
    """A push that fails just after it was seen under way."""

    def done(self) -> bool:
        before = super().done()
        if not before:
            self.set_exception(OSError())
        return before


def arrived() -> Future[None]:
    push = Future[None]()
    push.set_result(None)
    return push


def test_the_push_before_one_that_fails_meanwhile_counts() -> None:
    pushes = Pushes()
    for push in (arrived(), FailsMeanwhile()):
        pushes.begin()
        pushes.track(push)
    assert 0 in pushes.answering(1)
    assert pushes.answering(1) == {0}


def test_pushes_under_way_are_counted() -> None:
    pushes = Pushes()
    open_: list[Future[None]] = [Future(), Future()]
    for push in (arrived(), *open_):
        pushes.begin()
        pushes.track(push)
    assert (pushes.under_way, pushes.answering(2)) == (2, {0, 1, 2})
    open_[0].set_exception(OSError())
    open_[1].set_result(None)
    assert (pushes.under_way, pushes.answering(2)) == (0, {2})


@pytest.mark.slow
@pytest.mark.parametrize("whole", [False, True])
def test_a_server_that_takes_no_push_for_many_rounds_fills_no_memory_and_is_asked_nothing_late(
    make_node: Any, whole: bool
) -> None:
    """A swarm's clock goes on meanwhile, so that stages end at their deadlines."""
    node = make_node(whole=whole)
    (server,) = node.servers
    takes = threading.Event()
    slow = "/pause" if whole else "/v1/load_lora_adapter"

    def hold(path: str) -> None:
        if path.startswith(slow):
            takes.wait()

    server.answering = hold
    ahead = AHEAD_OF_WHOLE_WEIGHTS if whole else AHEAD
    for round_ in range(10):
        node.step()
        for coming in range(round_, round_ + ahead + 1):
            node.source.request(node.ask(coming))
        assert node.source.collect(replace(node.ask(round_), deadline=time.monotonic())) == []
        assert len(node.source._adapters.serials) <= remembered(ahead)
    until(lambda: len(node.source._replicas._asked) == 3 * ahead)  # only what coming rounds want
    takes.set()
    assert {row.kind for row in rows(node.play(10))} == {Kind.POLICY}
    until(lambda: node.source._pushes.under_way == 0)
    node.step()
    assert {(row.kind, row.lag) for row in rows(node.play(20))} == {(Kind.POLICY, 0)}
