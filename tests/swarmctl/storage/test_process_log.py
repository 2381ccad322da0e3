"""Logs of child processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from swarmctl.storage import process_log
from swarmctl.storage.followed_file import FollowedFile


def test_a_large_log_is_rotated_while_a_child_has_it_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_log, "LOG_LIMIT", 10)
    path = tmp_path / "trainer.log"
    with process_log.open_log(path) as log:
        follower = FollowedFile(path)
        for text in (b"short\n", b"something longer\n", b"the rest\n"):
            os.write(log.fileno(), text)
            process_log.limit_log(log, path)
    assert path.with_name("trainer.log.1").read_bytes() == b"short\nsomething longer\n"
    assert path.read_bytes() == follower.read() == b"the rest\n"
