"""A node whose clock differs from its peers' clocks says so, each time that the difference changes."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from hivemind.p2p import PeerID
from hivemind.proto import dht_pb2

from hivemind_exp.errors import SwarmError
from hivemind_exp.events import Event
from hivemind_exp.swarm.announcement import AnnouncementBook
from hivemind_exp.swarm.charter_fetch import find_charter
from hivemind_exp.swarm.clock_skew import ClockSkews, describe_skew, median_skew
from hivemind_exp.swarm.dht.guard import Caller, Guard, NotAMember, place_of
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.membership_proof import MembershipProof
from hivemind_exp.swarm.node_thread import SwarmThread
from hivemind_exp.swarm.transfer.peer_transfers import FetchFailed

SWARM = "0f" * 32
HOURS_S = 7200.0


def skews(*ahead: float) -> Any:
    return SimpleNamespace(recent=lambda: list(ahead))


def thread(events: list[Event]) -> Any:
    return SimpleNamespace(
        _skew_told=0.0,
        _emit=events.append,
        _alive_before=0,
        _born_ms=0,
        last_seen=dict,
        book=SimpleNamespace(foreign=None),
    )


def told(events: list[Event]) -> list[str]:
    return [event.model_dump()["message"].removeprefix("this machine's clock ") for event in events]


def test_clock_skew_is_reported_each_time_it_changes() -> None:
    events: list[Event] = []
    node = thread(events)
    for ahead in (1, 2.9, 10, 11, 12, 20, 19, -6, -6, 0, 0, 4, 2, 3.1, 1.4, 1):
        SwarmThread._watch(node, SimpleNamespace(skews=skews(ahead, ahead), neighbours=()))  # type: ignore[arg-type]
    assert told(events) == [
        "is 10 s behind its peers' clocks; synchronize it",
        "is 20 s behind its peers' clocks; synchronize it",
        "is 6 s ahead of its peers' clocks; synchronize it",
        "agrees with its peers' clocks again",
        "is 4 s behind its peers' clocks; synchronize it",
        "agrees with its peers' clocks again",
    ]


def test_a_node_with_one_peer_says_so_too_and_one_without_peers_says_nothing() -> None:
    events: list[Event] = []
    node = thread(events)
    for known in (skews(HOURS_S), skews(), skews(0.0)):
        SwarmThread._watch(node, SimpleNamespace(skews=known, neighbours=()))  # type: ignore[arg-type]
    assert told(events) == [
        "is 7200 s behind its only peer's clock; synchronize both",
        "agrees with its only peer's clock again",
    ]


@pytest.mark.parametrize(
    ("ahead", "median"),
    [([], None), ([100.0], 100.0), ([1.0, 9.0, 2.0], 2.0), ([0.1, 30.0], 0.1), ([-30.0, 0.1], 0.1), ([8.0, 9.0], 8.0)],
)
def test_the_median_of_the_peers_counts(ahead: list[float], median: float | None) -> None:
    assert median_skew(ahead) == median
    assert "agrees" in describe_skew(3.0, 2)


@pytest.mark.parametrize(
    ("clock", "dht_time", "kept"),
    [
        ((100.0, 100.5), 110.25, [10.0]),
        ((100.0, 100.0), -5.0, [-105.0]),
        ((100.0, 140.0), 140.0, []),  # the answer came late, so it shows nothing
        ((100.0, 40.0), 40.0, []),  # the clock was set back meanwhile
        ((100.0, 100.0), float("nan"), []),
        ((100.0, 100.0), float("inf"), []),
        ((100.0, 100.0), 1e300, []),
    ],
)
def test_what_a_ping_measures(clock: tuple[float, float], dht_time: float, kept: list[float]) -> None:
    awake = 5.0
    found = ClockSkews(lambda: clock[1], lambda: awake)
    found.measure("a", dht_time, clock[0])
    assert found.recent() == kept
    awake += 181
    assert found.recent() == []


def pinged(own: Identity, other: Identity, ahead: float) -> tuple[ClockSkews, bool, list[bool]]:
    """Ping a peer whose clock is ``ahead`` seconds ahead.

    Return what was measured, whether the peer counts as reachable, and for each ping answered whether the caller may
    enter the routing table.
    """
    entered: list[bool] = []

    async def answer(request: dht_pb2.PingRequest, _context: object) -> dht_pb2.PingResponse:
        entered.append(request.HasField("peer"))
        return dht_pb2.PingResponse(dht_time=time.time() + ahead)

    protocol: Any = SimpleNamespace(rpc_ping=answer, routing_table=())
    access = MembershipProof(SWARM, other.peer_id, lambda: time.time() + ahead)
    guard = Guard(protocol, SWARM, access, AnnouncementBook(SWARM, other.peer_id), lambda: None)
    caller_id = PeerID.from_base58(own.peer_id)

    async def rpc_ping(request: dht_pb2.PingRequest, timeout: float | None) -> dht_pb2.PingResponse:
        received = dht_pb2.PingRequest.FromString(request.SerializeToString())
        return await guard.rpc_ping(received, SimpleNamespace(remote_id=caller_id))  # type: ignore[arg-type]

    measured = ClockSkews()
    stub = SimpleNamespace(rpc_ping=rpc_ping)
    caller = Caller(stub, PeerID.from_base58(other.peer_id), SWARM, MembershipProof(SWARM, own.peer_id), measured)
    claimed = place_of(SWARM, caller_id.to_bytes()).to_bytes()
    request = dht_pb2.PingRequest(peer=dht_pb2.NodeInfo(node_id=claimed))
    try:
        asyncio.run(caller.rpc_ping(request))
    except NotAMember:
        return measured, False, entered
    return measured, True, entered


@pytest.mark.parametrize(("ahead", "usable"), [(0.0, True), (30.0, True), (HOURS_S, False), (-HOURS_S, False)])
def test_a_ping_measures_even_clocks_with_which_no_other_request_is_possible(ahead: float, usable: bool) -> None:
    measured, reachable, entered = pinged(Identity.generate(), Identity.generate(), ahead)
    assert measured.recent() == [pytest.approx(ahead, abs=1.6)]
    assert reachable is usable
    assert entered == [usable]


def test_a_node_that_cannot_join_because_of_its_clock_says_so() -> None:
    peer = Identity.generate().peer_id
    measured = ClockSkews()

    async def connect(_overlay: object, _peer: str) -> bool:
        return True

    async def ping(_peer: str) -> bool:
        measured._found[peer] = -HOURS_S, 0.0
        return False

    async def fetch(*_: object) -> bytes:
        raise FetchFailed("the transfer failed (IncompleteReadError)")

    contacts: Any = SimpleNamespace(peers=[peer], connect=connect)
    transfers: Any = SimpleNamespace(fetch=fetch)
    overlay: Any = SimpleNamespace(ping=ping, skews=measured)
    with pytest.raises(SwarmError, match="this machine's clock is 7200 s ahead of that of peer"):
        asyncio.run(find_charter(SWARM, contacts, transfers, lambda: overlay, 0.1))
