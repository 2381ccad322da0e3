"""A node's port is kept for its invitations, and replaced while another program uses it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hivemind_exp.config import SwarmConfig
from hivemind_exp.events import Event
from hivemind_exp.swarm.addresses import LOOPBACK, PORT_FILE, invited_port, read_port, take
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.invitation import parse
from hivemind_exp.swarm.node import SwarmNode


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
