"""Starts and restores of an identity are counted, so that copies of a node know which of them is the newest."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import pytest

from hivemind_exp.errors import FileProblem, IdentityProblem, NewerFormat
from hivemind_exp.swarm.identity import Identity, claim, shared_claims
from hivemind_exp.swarm.incarnation import Incarnation, IncarnationFile

PEER = Identity.generate().peer_id


@pytest.fixture
def counted(tmp_path: Path) -> IncarnationFile:
    directory = tmp_path / "maths"
    directory.mkdir()
    return IncarnationFile(directory / "incarnation.json", PEER)


def test_each_start_is_newer_than_the_last_even_if_the_clock_goes_back(
    counted: IncarnationFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = counted.start()
    assert first.started == pytest.approx(time.time() * 1000, abs=60_000)
    monkeypatch.setattr(time, "time", lambda: 1.0)
    assert counted.start() == Incarnation(0, first.started + 1)


def test_a_restore_outranks_every_start_of_other_copies(counted: IncarnationFile) -> None:
    before = counted.start()
    restored = counted.restore()
    assert before < restored < counted.restore()
    assert before < Incarnation(before.restored, before.started + 10**9) < restored
    assert counted.start() > restored


def test_a_node_that_was_superseded_does_not_start_again(counted: IncarnationFile) -> None:
    counted.start()
    newer = Incarnation(1_764_374_400_000, 7)
    counted.supersede(newer)
    with pytest.raises(IdentityProblem, match="restored from a backup on 2025-11-29 00:00:00 UTC") as raised:
        counted.start()
    assert raised.value.next == "swarmctl identity new --node maths"
    # A new identity starts afresh, and restoring the identity here makes this copy the newest.
    assert IncarnationFile(counted.path, "another").start().restored == 0
    counted.restore()
    assert counted.start() > newer


def test_damaged_and_newer_files_are_refused(counted: IncarnationFile) -> None:
    counted.path.write_text("[]")
    with pytest.raises(FileProblem, match=r"incarnation\.json is damaged"):
        counted.start()
    counted.path.write_text(json.dumps({"schema": 99, "peer": PEER}))
    with pytest.raises(NewerFormat):
        counted.start()


def test_a_restored_copy_has_priority_on_this_machine_even_after_it_has_stopped(tmp_path: Path) -> None:
    with claim(tmp_path, PEER, "new", restored=2000):
        pass
    with pytest.raises(IdentityProblem, match="a copy of node old was restored"), claim(tmp_path, PEER, "old"):
        pass
    with claim(tmp_path, PEER, "new", restored=2000), pytest.raises(IdentityProblem, match="node new"):
        with claim(tmp_path, PEER, "newer", restored=3000):
            pass


def test_homes_share_locks_only_in_a_directory_that_nobody_else_can_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    directory = shared_claims()
    assert directory == tmp_path / f"swarmctl-{os.getuid()}"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    directory.chmod(0o777)
    assert shared_claims() is None
    directory.rmdir()
    directory.symlink_to(tmp_path)
    assert shared_claims() is None
