"""``swarm peers`` and ``swarm leaderboard``: what a node has counted about its peers."""

from __future__ import annotations

import json
import os
import time
from datetime import datetime
from pathlib import Path

import pytest

from hivemind_exp.peers.records import PeerBook
from hivemind_exp.swarm.identity import Identity
from tests.support.command_line import Cli

pytestmark = pytest.mark.usefixtures("no_leftovers")


@pytest.mark.slow
def test_peers_and_leaderboard_escape_text_from_peers(here: Cli, home: Path, tea: str) -> None:
    assert (
        "No peer in swarm tea has shared rollouts with node tea yet. It is not running."
        in here("swarm", "peers").stdout
    )
    directory = home / "nodes/tea/swarm"
    book = PeerBook(directory / "peerbook.json")
    good, better = Identity.generate().peer_id, Identity.generate().peer_id
    for peer, used in ((good, 1), (better, 2), ("\x1b[31mroot", 9)):
        record = book.record(peer)
        record.kind, record.label, record.used, record.verified, record.correct = "\x1b]0;x\x07", "\x1b[2J", used, 8, 4
    book.save(now=True)
    board = here("swarm", "leaderboard")
    assert "\x1b" not in board.stdout
    assert board.stdout.index(better[-8:]) < board.stdout.index(good[-8:])
    assert "not proof" in board.stdout
    as_json = json.loads(here("swarm", "peers", "--json").stdout)
    assert abs(datetime.fromisoformat(as_json["saved"]).timestamp() - (directory / "peerbook.json").stat().st_mtime) < 1
    os.utime(directory / "peerbook.json", (0, time.time() - 7200.5))
    assert here("swarm", "peers").stderr == "Saved by node tea 2 h 0 min ago; it is not running.\n"
    rows = as_json["peers"]
    assert {row["peer"] for row in rows} == {good, better}
    assert rows[0] | {"weight": None, "kind": None, "round": None, "share_correct": 0.5} == rows[0]
