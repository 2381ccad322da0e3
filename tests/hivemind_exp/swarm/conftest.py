"""Nodes on loopback that notice within a second what happens to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hostile.wire import Peers


@pytest.fixture
def peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peers]:
    monkeypatch.setattr("hivemind_exp.swarm.node_thread.LOOK_S", 0.3)
    monkeypatch.setattr("hivemind_exp.swarm.transfer.peer_transfers._FIRST_PAUSE_S", 0.5)
    made = Peers(tmp_path)
    yield made
    made.close()
