"""The daemon dials only ports that accept connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from hivemind_exp.swarm.dial import may_answer


@pytest.fixture
def ports() -> Iterator[tuple[int, int]]:
    """Return a port that is open and one that is closed."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, but it does not listen
        yield server.getsockname()[1], closed.getsockname()[1]


@pytest.mark.parametrize(
    ("addresses", "found"),
    [
        (["/ip4/127.0.0.1/tcp/{closed}"], False),
        (["/ip4/127.0.0.1/tcp/{open}"], True),
        (["/ip4/127.0.0.1/tcp/{closed}", "/dns4/localhost/tcp/{open}"], True),
        (["/ip4/127.0.0.1/tcp/{closed}", "/dns4/no-such-host.invalid/tcp/{open}"], False),
        (["/ip4/127.0.0.1/tcp/{closed}", "/ip4/127.0.0.1/tcp/{closed}/p2p-circuit"], True),
        (["/ip4/127.0.0.1/udp/{closed}/quic"], True),
        ([], True),
    ],
)
def test_open_and_untestable_ports_may_answer(addresses: list[str], found: bool, ports: tuple[int, int]) -> None:
    filled = [address.format(open=ports[0], closed=ports[1]) for address in addresses]
    assert asyncio.run(may_answer(filled)) is found
