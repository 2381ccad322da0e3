"""Damaged records about peers are set aside, and a node whose identity a newer copy uses stops."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.errors import IdentityProblem, NewerFormat
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner import build_swarm
from hivemind_exp.runner.build_swarm import check_memory, open_swarm
from hivemind_exp.stop import StopFlag, StopRequested
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.incarnation import Incarnation, IncarnationFile
from hivemind_exp.swarm.invitation import Invitation
from tests.support.charters import charter, words
from tests.support.nodes import make_config
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


class FakeSwarmNode:
    """Joins no swarm. Keeps what it was created with."""

    made: dict[str, Any]

    def __init__(self, *_: Any, **options: Any) -> None:
        FakeSwarmNode.made = options

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_node_stops_for_a_newer_copy_and_does_not_start_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(build_swarm, "SwarmNode", FakeSwarmNode)
    files = NodeFiles(tmp_path / "maths")
    files.root.mkdir()
    identity = Identity.create(files.key)
    nonce, now = secrets.token_hex(16), int(time.time())
    rules = charter(founder=identity.peer_id, nonce=nonce, t0=now, tasks=(words(params={}, weight_ppm=1_000_000),))
    files.charter.write_bytes(rules.seal(identity))
    config = make_config(node={"name": "maths"}, swarm={"join": str(Invitation(rules.id, ()))})
    stop, newer = StopFlag(), Incarnation(int(time.time() * 1000) + 5000)

    def run() -> None:
        with open_swarm(config, files, Events(), stop):
            own = FakeSwarmNode.made["incarnation"]
            assert own == IncarnationFile(files.incarnation, identity.peer_id).read()[0]
            FakeSwarmNode.made["on_superseded"](newer)
            assert stop.is_set()
            raise StopRequested  # as the trainer does, after it has saved a checkpoint

    with pytest.raises(IdentityProblem, match="a copy of node maths was restored from a backup") as raised:
        run()
    assert raised.value.next == "swarmctl identity new --node maths"
    with pytest.raises(IdentityProblem, match="so this older one must not run"):
        with open_swarm(config, files, Events(), StopFlag()):
            pass
    # With a new identity, it runs again.
    Identity.generate().save(files.key, replace=True)
    with open_swarm(config, files, Events(), StopFlag()) as session:
        assert session.config.node.name == "maths"
