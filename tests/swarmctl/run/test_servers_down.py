"""A run connects to the operator's own servers before it starts, sends them nothing, and says which are down."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import Config
from hivemind_exp.offload.settings import Endpoint, replica_endpoints
from hivemind_exp.providers import PROVIDERS, Chat
from swarmctl.errors import Exit
from swarmctl.nodes.lookup import files_of
from swarmctl.run.offload_plan import labelled, plan
from swarmctl.run.servers_down import check_command, is_unchanged, not_started_here, servers_down, warnings_of
from swarmctl.serving.by_hand import start_command
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


@pytest.mark.parametrize(
    ("engine", "lora", "start", "flags"),
    [
        ("vllm", True, "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve org/m ", "--enable-lora --max-lora-rank 16"),
        ("vllm", False, "VLLM_SERVER_DEV_MODE=1 vllm serve org/m ", "--logprobs-mode processed_logprobs"),
        ("sglang", True, "python -m sglang.launch_server ", "--enable-lora --max-lora-rank 16"),
    ],
)
def test_a_server_of_the_nodes_weights_is_started_with_all_that_they_need(
    free_port: int, engine: str, lora: bool, start: str, flags: str
) -> None:
    settings: dict[str, Any] = {
        "model": {"name": "org/m", "lora": {"rank": 16} if lora else None},
        "offload": {"provider": "box", "kind": "policy", "serving": {"engine": engine}},
        "providers": {"box": {"base_url": f"http://127.0.0.1:{free_port}/v1", "free": True}},
    }
    text, command = warnings_of(Config.model_validate(settings), "swarmctl doctor api")
    assert text.endswith("accepts no connection (connection refused). To start it:"), "such a server has no key"
    assert command.startswith(f"  {start}")
    assert f" {flags}" in command
    assert f" --served-model-name org/m --host 127.0.0.1 --port {free_port}" in command
    for url, listens in (
        ("http://box.invalid:8000/v1", "--host 0.0.0.0 --port 8000"),
        ("http://[fd00::5]:8000/v1", "--host :: --port 8000"),
        ("http://[::1]:8000/v1", "--host ::1 --port 8000"),
    ):
        elsewhere = settings | {"providers": {"box": settings["providers"]["box"] | {"base_url": url}}}
        made = Config.model_validate(elsewhere)
        assert f"{listens} " in f"{start_command(made, replica_endpoints(made)[0])} "
    hidden = Config.model_validate(settings | {"providers": {"box": {"base_url": "https://box.invalid", "free": True}}})
    assert start_command(hidden, replica_endpoints(hidden)[0]) is None, "a proxy's address is not the server's"
    tiny = Config.model_validate(settings | {"model": {"name": "tiny", "lora": {"rank": 16} if lora else None}})
    assert start_command(tiny, replica_endpoints(tiny)[0]) is None, "no engine serves the demo's model"


def test_every_replica_is_looked_at_and_prompts_are_said_to_go_there(home: Path, free_port: int) -> None:
    urls = [f"http://127.0.0.1:{free_port}/v1", f"http://127.0.0.2:{free_port}/v1"]
    changes = ("offload.kind=policy", "model.lora.rank=8", f"offload.serving.urls={json.dumps(urls)}")
    flags = tuple(offload_flags("vllm:served"))
    config = resolved_options(RunOptions(profile="gpu", flags=flags, assignments=changes)).config
    assert [each.endpoint.base_url for each in servers_down(not_started_here(config))] == urls
    planned = plan(config, files_of("new"))
    assert planned is not None
    told = dict(labelled(planned))
    hosts = f"127.0.0.1:{free_port}, 127.0.0.2:{free_port}"
    assert told["prompts"].startswith(f"Prompts go to {hosts};")
    assert planned.as_json(planned.uses[0])["host"] == hosts


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
