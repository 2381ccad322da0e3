"""A run connects to the operator's own servers before it starts, sends them nothing, and says which are down."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hivemind_exp.offload.settings import Endpoint
from hivemind_exp.providers import PROVIDERS, Chat
from swarmctl.errors import Exit
from swarmctl.run.servers_down import check_command, is_unchanged, servers_down, warnings_of
from swarmctl.settings.command_line import resolved_options
from swarmctl.settings.offload_target import offload_flags
from swarmctl.settings.options import RunOptions
from swarmctl.settings.sources import REMEMBERED
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
    (found,) = servers_down([endpoint(free_port), endpoint(up), endpoint(free_port)])
    assert (found.endpoint, found.reason) == (endpoint(free_port), "connection refused")
    assert servers_down([endpoint(free_port, needs_key=True)]) == []
    connection, _ = listener.accept()
    with connection:
        assert connection.recv(1) == b"", "nothing is sent"


def test_a_name_that_does_not_resolve_is_reported() -> None:
    (found,) = servers_down([Endpoint("box", "http://no-such-host.invalid/v1", "m", Chat(), needs_key=False)])
    assert found.reason


def test_the_warning_ends_with_the_command_that_starts_or_checks_the_server(
    home: Path, monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    url = f"http://127.0.0.1:{free_port}/v1"
    monkeypatch.setitem(PROVIDERS, "llamacpp", replace(PROVIDERS["llamacpp"], base_url=url))

    def warnings(target: str) -> list[str]:
        resolved = resolved_options(RunOptions(profile="demo", flags=tuple(offload_flags(target))))
        return warnings_of(resolved.config, check_command(resolved))

    unknown = f"warning: {url} accepts no connection (connection refused), so it is unknown whether the server needs"
    text, command = warnings("llamacpp:org/model")
    assert text == f"{unknown} a key. To start it:"
    assert command == f"  llama-server -hf org/model --port {free_port}"
    text, command = warnings(f"{url}:model")
    assert text == f"{unknown} a key. Start the server, then check it:"
    assert " doctor api --profile demo --node demo --set offload.provider=localhost-" in command
    with socket.create_server(("127.0.0.1", free_port)):
        assert warnings("llamacpp:org/model") == []


def test_a_node_that_used_the_server_before_is_checked_by_its_name(home: Path, free_port: int) -> None:
    resolved = resolved_options(
        RunOptions(profile="demo", flags=tuple(offload_flags(f"http://127.0.0.1:{free_port}:m")))
    )
    remembered = replace(resolved, overrides=[replace(each, origin=REMEMBERED) for each in resolved.overrides])
    assert not is_unchanged(remembered), "there is no such node"
    (home / "nodes/demo").mkdir(parents=True)
    assert not is_unchanged(resolved)
    assert is_unchanged(remembered)
    text, command = warnings_of(remembered.config, check_command(remembered), used=True)
    assert text.endswith("accepts no connection (connection refused). Start the server, then check it:")
    assert command.endswith("swarmctl doctor api --node demo")


@pytest.mark.slow
@pytest.mark.usefixtures("no_leftovers")
def test_a_run_begins_with_the_server_that_is_down(stand_in: Cli, free_port: int) -> None:
    done = stand_in("run", "-p", "demo", "--offload", f"http://localhost:{free_port}/v1:m", "--quiet", "--rounds", "1")
    said = done.stderr.splitlines()
    assert said[0].startswith(f"warning: http://localhost:{free_port}/v1 accepts no connection"), done.stderr
    assert " doctor api " in said[1]
    assert "needs no key" not in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("no_leftovers")
def test_a_dry_run_with_a_named_model_says_that_the_server_is_down(stand_in: Cli, free_port: int) -> None:
    url = f"http://localhost:{free_port}/v1"
    command = ("run", "-p", "demo", "--offload", f"{url}:qwen", "--dry-run")
    done = stand_in(*command)
    assert done.returncode == Exit.DONE
    line, check = done.stdout.splitlines()[:2]
    assert line == (
        f"server    {url} accepts no connection (connection refused), so it is unknown whether the server needs a key. "
        "Start the server, then check it:"
    )
    assert done.stderr == ""
    assert " doctor api --profile demo --node demo --set offload.provider=" in check
    as_json = json.loads(stand_in(*command, "--json").stdout)
    assert as_json["check"]["offload"]["servers_down"] == {url: "connection refused"}
    with socket.create_server(("127.0.0.1", free_port)):
        assert "\nserver " not in stand_in(*command).stdout
