"""Damaged records about peers are set aside, with a warning."""

from __future__ import annotations

from pathlib import Path

import pytest

from hivemind_exp.errors import NewerFormat
from hivemind_exp.runner.build_swarm import check_memory
from tests.support.recorded_events import Events


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 1}', '{"schema": 1, "peers": []}'])
def test_damaged_records_are_renamed(tmp_path: Path, content: str) -> None:
    path, events = tmp_path / "peerbook.json", Events()
    path.write_text(content)
    check_memory(path, events)
    assert not path.exists()
    assert (tmp_path / "peerbook.json.damaged").read_text() == content
    assert [warning["code"] for warning in events.of("warning")] == ["file_damaged"]


@pytest.mark.parametrize("content", [None, '{"peers": {}}', '{"schema": 1, "peers": {}}'])
def test_intact_records_stay(tmp_path: Path, content: str | None) -> None:
    path, events = tmp_path / "peerbook.json", Events()
    if content is not None:
        path.write_text(content)
    check_memory(path, events)
    assert path.exists() == (content is not None)
    assert events.of("warning") == []


def test_newer_records_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "peerbook.json"
    path.write_text('{"schema": 2, "peers": {}}')
    with pytest.raises(NewerFormat):
        check_memory(path, Events())
    assert path.exists()
