"""Two running copies of a node that know no other peer find each other, and the older one stops."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hivemind_exp.swarm import copies
from hivemind_exp.swarm.addresses import is_here
from hivemind_exp.swarm.announcement import Announcement
from hivemind_exp.swarm.copies import PLACES, CopySearch, OwnPlaces
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.incarnation import Incarnation
from hivemind_exp.swarm_settings import SwarmConfig
from tests.support.hostile.wire import SWARM, Peers, eventually

PEER = Identity.generate().peer_id
HOME = "/ip4/192.0.2.7/tcp/4001"
OLD, NEW = Incarnation(1000, 9000), Incarnation(2000, 4000)


def test_addresses_are_kept_for_the_identity_that_had_them(tmp_path: Path) -> None:
    path = tmp_path / PLACES
    OwnPlaces(path, PEER).note([HOME, "not an address", HOME])
    assert json.loads(path.read_bytes())["schema"] == 1
    assert list(OwnPlaces(path, PEER)) == [HOME]
    assert list(OwnPlaces(path, Identity.generate().peer_id)) == []


def test_the_newest_addresses_are_kept_and_old_ones_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = OwnPlaces(tmp_path / PLACES, PEER)
    many = [f"/ip4/192.0.2.{number}/tcp/4001" for number in range(20)]
    places.note(many)
    assert list(places) == many[-16:]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 31 * 86_400)
    places.note([HOME])
    assert list(OwnPlaces(tmp_path / PLACES, PEER)) == [HOME]


def test_known_addresses_are_written_once_per_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / PLACES
    places = OwnPlaces(path, PEER)
    places.note([HOME])
    path.unlink()
    places.note([HOME])
    assert not path.exists()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    places.note([HOME])
    assert path.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"peer": 5}', "[" * 50_000])
def test_a_damaged_file_counts_as_none(content: str, tmp_path: Path) -> None:
    (tmp_path / PLACES).write_text(content)
    assert list(OwnPlaces(tmp_path / PLACES, PEER)) == []


def test_addresses_of_this_machine_lead_to_this_node(monkeypatch: pytest.MonkeyPatch) -> None:
    snic = next(each for each in psutil.net_if_addrs()["lo"] if each.address == "127.0.0.1")
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"lo": [snic], "eth0": [snic._replace(address="192.0.2.7")]})
    assert is_here(HOME, 4001, loopback=False)
    assert is_here("/ip4/127.0.0.1/tcp/4001", 4001, loopback=False)
    assert not is_here(HOME, 4002, loopback=False)
    assert not is_here("/ip4/192.0.2.8/tcp/4001", 4001, loopback=False)
    assert not is_here("/dns4/box.test/tcp/4001", 4001, loopback=False)
    # A daemon that listens on the loopback address only leaves the port free on the others.
    assert is_here("/ip4/127.0.0.1/tcp/4001", 4001, loopback=True)
    assert not is_here(HOME, 4001, loopback=True)


def test_a_node_with_peers_searches_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    async def closed(addresses: list[str]) -> bool:
        tried.extend(addresses)
        return False

    monkeypatch.setattr(copies, "may_answer", closed)
    at = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: at)
    identity = Identity.generate()
    search = CopySearch(
        identity, SWARM, key=tmp_path / "key", directory=tmp_path, settings=SwarmConfig(), invitation=()
    )
    search.places.note([HOME])
    own = Announcement(identity.peer_id, 0, 0, 0)

    def tries(seconds: float, *, alone: bool) -> int:
        nonlocal at
        at += seconds
        before = len(tried)
        assert asyncio.run(search.search(own, 5001, alone=alone)) == []
        return len(tried) - before

    assert tries(0, alone=False) == 1  # at the start
    assert tries(copies.ALONE_S, alone=True) == 1
    assert tries(copies.ALONE_S, alone=False) == 0
    assert tries(copies.AMONG_PEERS_S, alone=False) == 1


@pytest.fixture
def peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peers]:
    monkeypatch.setattr("hivemind_exp.swarm.node_thread.ALONE_S", 0.5)
    monkeypatch.setattr(copies, "ALONE_S", 0.5)
    made = Peers(tmp_path)
    yield made
    made.close()


@pytest.fixture
def visits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that any node visits."""
    made: list[str] = []
    visit = copies.visit

    def counted(peer: str, address: str, **options: Any) -> Any:
        made.append(address)
        return visit(peer, address, **options)

    monkeypatch.setattr(copies, "visit", counted)
    return made


def copied(peers: Peers, name: str, like: str) -> None:
    """Give a node the addresses of another one, as a restored backup has them."""
    (peers.root / name / "swarm").mkdir(parents=True)
    shutil.copy(peers.root / like / "swarm" / PLACES, peers.root / name / "swarm")


@pytest.mark.swarm
@pytest.mark.parametrize("searching", ["new", "old"])
def test_the_older_copy_stops_whichever_of_them_knows_the_address_of_the_other(searching: str, peers: Peers) -> None:
    incarnation = {"old": OLD, "new": NEW}
    found = "old" if searching == "new" else "new"
    peers.start(found, incarnation=incarnation[found])
    copied(peers, searching, found)
    peers.start(searching, like=found, incarnation=incarnation[searching])
    eventually(lambda: peers.superseded["old"], 30)
    assert set(peers.superseded["old"]) == {NEW}
    assert peers.superseded["new"] == []
    if searching == "new":  # otherwise the older one has stopped before the newer one can notice
        eventually(lambda: "identity_elsewhere" in peers.codes("new"))
    assert "identity_elsewhere" not in peers.codes("old")


@pytest.mark.swarm
def test_a_copy_at_the_own_address_in_the_invitation_is_found(peers: Peers) -> None:
    old = peers.start("old", incarnation=OLD)
    peers.start("new", old.addresses(), like="old", incarnation=NEW)
    eventually(lambda: peers.superseded["old"], 30)
    assert peers.superseded["new"] == []


@pytest.mark.swarm
def test_a_copy_that_was_found_once_is_known_to_the_other(peers: Peers) -> None:
    old = peers.start("old", incarnation=OLD)
    new = peers.start("new", old.addresses(), like="old", incarnation=NEW)
    eventually(lambda: peers.superseded["old"], 30)
    (address,) = new._places
    assert address in list(OwnPlaces(peers.root / "old" / "swarm" / PLACES, old.peer_id))


@pytest.mark.swarm
def test_a_node_does_not_take_itself_for_a_copy(peers: Peers, visits: list[str]) -> None:
    node = peers.start("first", incarnation=OLD)
    number = node._places[0].rpartition("/")[2]
    copies_of_itself = node._copies
    copies_of_itself.places.note([f"/dns4/localhost/tcp/{number}"])  # as a public address leads back to it
    eventually(lambda: visits)
    eventually(lambda: copies_of_itself._pauses[f"/dns4/localhost/tcp/{number}"].failures)
    assert set(visits) == {f"/dns4/localhost/tcp/{number}"}
    assert node._places[0] not in visits  # an address of this machine is recognized without a visit
    assert peers.superseded["first"] == []
    assert peers.codes("first") == []


@pytest.mark.swarm
def test_others_at_an_old_address_are_no_copies(peers: Peers, visits: list[str]) -> None:
    stranger = peers.start("stranger", incarnation=NEW)
    peers.make("node")
    elsewhere = peers.start("elsewhere", like="node", swarm="7e" * 32, incarnation=NEW)
    old = [stranger._places[0], elsewhere._places[0]]
    OwnPlaces(peers.root / "node" / "swarm" / PLACES, elsewhere.peer_id).note(old)
    node = peers.start("node", incarnation=OLD)
    for address in old:
        eventually(lambda address=address: address in visits, 30)  # type: ignore[misc]
        eventually(lambda address=address: node._copies._pauses[address].failures, 30)  # type: ignore[misc]
    assert peers.superseded["node"] == peers.superseded["elsewhere"] == []
    assert peers.codes("node") == peers.codes("stranger") == peers.codes("elsewhere") == []
