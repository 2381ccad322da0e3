"""The order of fetches when more bundles are announced than can be fetched at once."""

from __future__ import annotations

import asyncio
import hashlib
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from hivemind_exp.swarm.announcement import Announcement, BundleRef
from hivemind_exp.swarm.transfer.bundle_store import BundleInbox, BundleStore
from hivemind_exp.swarm.transfer.peer_transfers import AT_ONCE, BundleFetcher, FetchFailed, TransferBroken
from hivemind_exp.swarm.waits import cancel_all


@dataclass
class Somewhere:
    """Stands in for transfers and overlay. Connecting to strangers takes long and fails."""

    neighbours: set[str]
    asked: list[str] = field(default_factory=list)
    broken: bool = False
    frozen: bool = False
    """Whether transfers begin but never end."""
    answers: bool = True
    """Whether peers answer pings."""

    async def connect(self, _overlay: Any, peer: str) -> bool:
        self.asked.append(peer)
        await asyncio.sleep(0.01 if peer in self.neighbours else 30)
        return peer in self.neighbours

    async def check(self, _overlay: Any, _peer: str) -> bool:
        return self.answers

    async def fetch(self, *_: Any) -> bytes:
        if self.broken:
            raise FetchFailed("busy")
        if self.frozen:
            raise TransferBroken("the transfer failed")
        return b"bundle"


def word(peer: str, number: int = 0) -> Announcement:
    ref = BundleRef(number, 0, hashlib.sha256(f"{peer} {number}".encode()).digest(), 6, 1)
    return Announcement(peer, int(time.time() * 1000), 1, 1, bundles=(ref,))


async def settle(place: Somewhere, fetching: BundleFetcher, words: list[Announcement]) -> None:
    place.asked.clear()
    fetching.look(place, words)  # type: ignore[arg-type]
    await asyncio.sleep(0.05)


def test_neighbors_are_asked_before_a_crowd_of_new_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hivemind_exp.swarm.transfer.peer_transfers._FIRST_PAUSE_S", 0.01)
    friends = [f"friend {number}" for number in range(AT_ONCE // 2)]
    crowd = [word(f"stranger {number}") for number in range(500)]
    place, inbox = Somewhere(set(friends)), BundleInbox(lambda _: True)

    async def live() -> None:
        fetching = BundleFetcher(
            place,  # type: ignore[arg-type]
            BundleStore(),
            inbox,
            connect=place.connect,
            check=place.check,
            on_room=lambda: None,
        )
        await settle(place, fetching, [*crowd, *(word(friend) for friend in friends)])
        assert set(place.asked[: len(friends)]) == set(friends)
        assert len(fetching.running) <= AT_ONCE
        assert {received.peer for received in inbox.take()} == set(friends)
        await cancel_all(list(fetching.running.values()))
        # A peer that has served before and fails now and then still comes before peers that never served.
        place.broken = True
        await settle(place, fetching, [word(friends[0], 1)])
        place.broken = False
        await settle(place, fetching, [*crowd, word(friends[0], 2)])
        assert place.asked[0] == friends[0]
        assert [received.peer for received in inbox.take()] == [friends[0]]
        await cancel_all(list(fetching.running.values()))

    asyncio.run(live())


@pytest.mark.parametrize("answers", [False, True])
def test_only_a_peer_that_was_gone_is_asked_again_without_a_pause(answers: bool) -> None:
    """A frozen peer is asked again when it answers. A peer that answers but serves nothing is asked after a pause."""
    place, inbox = Somewhere({"friend"}, frozen=True, answers=answers), BundleInbox(lambda _: True)

    async def live() -> None:
        fetching = BundleFetcher(
            place,  # type: ignore[arg-type]
            BundleStore(),
            inbox,
            connect=place.connect,
            check=place.check,
            on_room=lambda: None,
        )
        await settle(place, fetching, [word("friend")])
        assert inbox.take() == []
        place.frozen = False
        fetching.forgive("friend")
        await settle(place, fetching, [word("friend")])
        assert [received.peer for received in inbox.take()] == ([] if answers else ["friend"])

    asyncio.run(live())
