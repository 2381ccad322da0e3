"""Let honest nodes trade, and look at what a node has stored and serves."""

from __future__ import annotations

import os
import time

from hivemind_exp.swarm.announcement import (
    Announcement,
)
from hivemind_exp.swarm.node import SwarmNode
from tests.support.patience import Patience


def trade(first: SwarmNode, second: SwarmNode, seconds: float = 10.0) -> None:
    """Let two honest nodes exchange one bundle each."""
    content = {node.peer_id: os.urandom(20_000) for node in (first, second)}
    for node in (first, second):
        node.publish(content[node.peer_id], round=9, groups=1, step=9)
    patience = Patience(seconds)
    for node, other in ((first, second), (second, first)):
        got: list[bytes] = []
        while content[other.peer_id] not in got:
            assert not patience.is_over(), "the honest could not trade"
            got += [one.data for one in node.take() if one.peer == other.peer_id]
            time.sleep(0.02)


def own_word(node: SwarmNode) -> tuple[bytes, Announcement]:
    return next((record, word) for record, word in node.book.newest() if word.peer == node.peer_id)


def stored(node: SwarmNode) -> int:
    """Return how many records a node stores for the DHT."""
    overlay = node.overlay
    assert overlay is not None
    return sum(len(item.value.data) for _, item in overlay._protocol.storage.items())
