"""A node's lock: processes that only look at it do not keep a node from starting."""

from __future__ import annotations

import fcntl
import time
from pathlib import Path

import pytest

from swarmctl.storage import node_lock as locks


def test_a_look_at_the_lock_keeps_no_node_from_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    path.touch()
    with path.open("rb") as looking, path.open("rb") as starting:
        assert locks.acquire(looking.fileno(), fcntl.LOCK_SH)
        monkeypatch.setattr(time, "sleep", lambda _: looking.close())
        assert locks.acquire(starting.fileno())
        assert locks.is_held(path)


def test_a_running_node_keeps_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    path.touch()
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("waited for a node that runs"))
    with path.open("rb") as running, path.open("rb") as starting:
        assert locks.acquire(running.fileno())
        assert not locks.acquire(starting.fileno())
        assert locks.is_held(path)
    assert not locks.is_held(path)
