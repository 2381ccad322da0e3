"""A dry run connects to the operator's own servers, sends them nothing, and says which are down."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from hivemind_exp.offload.settings import Endpoint
from hivemind_exp.providers import Chat
from swarmctl.errors import Exit
from swarmctl.run.servers_down import servers_down
from tests.support.command_line import Cli


def endpoint(port: int, *, needs_key: bool = False) -> Endpoint:
    return Endpoint("box", f"http://127.0.0.1:{port}/v1", "m", Chat(), needs_key=needs_key)


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(5)
        yield server


def test_only_servers_that_accept_no_connection_are_reported(free_port: int, listener: socket.socket) -> None:
    up = listener.getsockname()[1]
    found = servers_down([endpoint(free_port), endpoint(up), endpoint(free_port)])
    assert found == {f"http://127.0.0.1:{free_port}/v1": "connection refused"}
    assert servers_down([endpoint(free_port, needs_key=True)]) == {}
    connection, _ = listener.accept()
    with connection:
        assert connection.recv(1) == b"", "nothing is sent"


def test_a_name_that_does_not_resolve_is_reported() -> None:
    (reason,) = servers_down([Endpoint("box", "http://no-such-host.invalid/v1", "m", Chat(), needs_key=False)]).values()
    assert reason


@pytest.mark.slow
@pytest.mark.usefixtures("no_leftovers")
def test_a_dry_run_with_a_named_model_says_that_the_server_is_down(stand_in: Cli, free_port: int) -> None:
    url = f"http://localhost:{free_port}/v1"
    command = ("run", "-p", "demo", "--offload", f"{url}:qwen", "--dry-run")
    done = stand_in(*command)
    assert done.returncode == Exit.DONE
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("server ")]
    assert line.startswith(
        f"server    {url} accepts no connection (connection refused). Start it before the run. To check it: "
    )
    assert " doctor api --profile demo --node demo --set offload.provider=" in line
    as_json = json.loads(stand_in(*command, "--json").stdout)
    assert as_json["check"]["offload"]["servers_down"] == {url: "connection refused"}
    with socket.create_server(("127.0.0.1", free_port)):
        assert "\nserver " not in stand_in(*command).stdout
