"""A member that does not train: it reads all records of a swarm and checks whether they are valid."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from hivemind_exp.events import discard
from hivemind_exp.swarm.announcement import AnnouncementBook, RecordRefused
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.invitation import Invitation
from hivemind_exp.swarm.node import SwarmNode
from hivemind_exp.swarm_settings import SwarmConfig
from tests.support.hostile.records import unpack

STALE = ("not newer than the known record", "expired", "this node's peer id")
"""Reasons to reject a record that was valid earlier: some peers keep an older record a little longer, or the observer's
own record from an earlier look."""


@dataclass
class Stored:
    """The records that a swarm's peers store."""

    records: dict[bytes, tuple[str, int]] = field(default_factory=dict)
    """By record: its peer and time."""
    invalid: Counter[str] = field(default_factory=Counter)
    """Number of rejected records, by reason."""
    stale: int = 0
    """Rejected records that were valid earlier."""
    bundles: dict[tuple[str, int, int], set[bytes]] = field(default_factory=dict)
    """Hashes of the bundles that a peer announced for a round and stage."""

    @property
    def peers(self) -> set[str]:
        return {peer for peer, _ in self.records.values()}

    def faults(self) -> list[str]:
        """Return the errors found."""
        wrong = [f"{count} records refused: {why}" for why, count in self.invalid.items()]
        # A round that is repeated after a crash is read from the journal, so it cannot change.
        changed = [f"two bundles of round {round_}" for (_, round_, _), seen in self.bundles.items() if len(seen) > 1]
        return wrong + changed


class _Note:
    """Wraps an announcement book's ``judge`` and records all that it is given."""

    def __init__(self, book: AnnouncementBook, swarm: str, stored: Stored) -> None:
        self._judge, self._book, self._swarm, self._stored = book.judge, book, swarm, stored

    def __call__(self, key: bytes, subkey: bytes, value: bytes, expires: float) -> bool:
        before = Counter(self._book.refused)
        taken = self._judge(key, subkey, value, expires)
        if not taken:
            for why in Counter(self._book.refused) - before:
                if why in STALE:
                    self._stored.stale += 1
                else:
                    self._stored.invalid[why] += 1
            return False
        record = _bytes_of(value)
        if record not in self._stored.records:
            self._look_into(record)
        return True

    def _look_into(self, record: bytes) -> None:
        try:
            said = unpack(record, self._swarm, time.time())
        except RecordRefused as refused:
            self._stored.invalid[f"taken, though {refused}"] += 1
            return
        self._stored.records[record] = said.peer, said.seq
        for ref in said.bundles:
            self._stored.bundles.setdefault((said.peer, ref.round, ref.stage), set()).add(ref.sha256)


def collect(directory: Path, invitation: Invitation, seconds: float, stored: Stored | None = None) -> Stored:
    """Join the swarm for ``seconds`` and add what its peers store to ``stored``, which is returned. Loopback only."""
    stored = Stored() if stored is None else stored
    directory.mkdir(parents=True, exist_ok=True)
    key = directory / "identity.key"
    identity = Identity.load(key) if key.exists() else Identity.create(key)
    node = SwarmNode(
        identity,
        invitation.charter,
        key=key,
        directory=directory / "swarm",
        settings=SwarmConfig(loopback=True),
        invitation=invitation.addresses,
        emit=discard,
        label="observer",
    )
    node.book.judge = _Note(node.book, invitation.charter, stored)  # type: ignore[method-assign]
    try:
        node.start()
        time.sleep(seconds)
    finally:
        node.close()
    own = identity.peer_id
    for record in [record for record, (peer, _) in stored.records.items() if peer == own]:
        del stored.records[record]
    return stored


def _bytes_of(value: bytes) -> bytes:
    import msgpack

    record: bytes = msgpack.unpackb(value)
    return record
