"""A node's port is kept for its invitations, and replaced while another program uses it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hivemind_exp.errors import NewerFormat
from hivemind_exp.events import Event
from hivemind_exp.swarm.addresses import LOOPBACK, PORT_FILE, invited_port, read_port, take
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.invitation import parse
from hivemind_exp.swarm.node import SwarmNode
from hivemind_exp.swarm_settings import SwarmConfig


def test_a_port_in_use_is_replaced_for_one_run_only(tmp_path: Path) -> None:
    def taken() -> Any:
        return take(0, tmp_path / PORT_FILE, loopback=True)

    with taken() as first:
        port = first.getsockname()[1]
        with taken() as second:
            other = second.getsockname()[1]
            assert (read_port(tmp_path), invited_port(tmp_path)) == (other, port)
            assert other != port
    with taken() as third:
        assert third.getsockname()[1] == port
        assert read_port(tmp_path) == invited_port(tmp_path) == port


@pytest.mark.parametrize(
    ("content", "port"),
    [
        ("4001\n", 4001),
        ('{"schema": 1, "port": 4001}', 4001),
        ('{"schema": 1, "port": true}', None),
        ('{"port": 70000}', None),
        ("4001.5", None),
        ("", None),
    ],
)
def test_a_port_is_read_as_this_and_earlier_versions_write_it(tmp_path: Path, content: str, port: int | None) -> None:
    (tmp_path / PORT_FILE).write_text(content)
    assert invited_port(tmp_path) == port


def test_a_port_of_a_newer_version_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / PORT_FILE
    path.write_text('{"schema": 2}')
    with pytest.raises(NewerFormat, match="has format 2"):
        take(0, path, loopback=True)
    assert path.read_text() == '{"schema": 2}'


@pytest.mark.parametrize(
    ("invited", "set_port", "told"), [(4001, 0, True), (4002, 0, False), (None, 0, False), (4001, 4002, False)]
)
def test_the_new_invitation_is_printed(invited: int | None, set_port: int, told: bool) -> None:
    events: list[Event] = []
    peer, swarm = Identity.generate().peer_id, "0f" * 32
    node: Any = SimpleNamespace(
        _settings=SwarmConfig(port=set_port, loopback=True), _port=4002, _swarm=swarm, peer_id=peer, _emit=events.append
    )
    SwarmNode._tell_of_another_port(node, invited)
    assert len(events) == told
    if told:
        message = events[0].model_dump()["message"]
        assert message.startswith("port 4001 is in use, so this run uses port 4002")
        line = parse(message.partition("--join ")[2])
        assert (line.charter, line.addresses) == (swarm, (f"/ip4/{LOOPBACK}/tcp/4002/p2p/{peer}",))
