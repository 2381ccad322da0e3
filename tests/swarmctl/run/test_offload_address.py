"""``swarmctl run --offload ADDRESS``: a server's address stands for a provider."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from swarmctl.errors import Exit
from tests.support.command_line import STAND_IN, run_process, told
from tests.support.fake_api.server import ApiServer, api_server
from tests.support.offload_runs import KEY, profile, swarmctl, untrained
from tests.support.terminals import rest_of, spawn

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_leftovers")]


def address(server: ApiServer) -> str:
    """The server's address as a user types it."""
    return server.base_url.replace("127.0.0.1", "localhost")


def test_a_servers_address_is_enough_and_the_node_remembers_it(home: Path) -> None:
    with api_server() as server:
        profile(home, server)
        port = server.url.rpartition(":")[2]
        done = untrained("--offload", address(server).removesuffix("/v1"), "--rounds", "1")
        assert done.returncode == Exit.DONE, done.stderr
        asked = len(server.ledger.chats)
        again = run_process(
            [*STAND_IN, "run", "--node", "small", "--rounds", "2"], env=os.environ | {"STAND_IN": "offload"}
        )
        assert again.returncode == Exit.DONE, again.stderr
        assert len(server.ledger.chats) > asked > 0
    assert f"Provider localhost-{port} is the server at {address(server)}. It counts as free" in done.stderr
    assert f"Offloading to localhost-{port}:test-model" in again.stderr
    saved = json.loads((home / "nodes/small/config.json").read_text())["overrides"]
    assert saved[f"providers.localhost-{port}.base_url"] == address(server)
    assert saved["offload.model"] == "test-model"


def test_a_server_that_cannot_be_used_without_more_words_leads_to_them(home: Path) -> None:
    with api_server(models=("first", "second")) as server:
        profile(home, server)
        cause, following = told(swarmctl("--offload", address(server), "--dry-run"))
        assert "has 2 models: first, second. Name one" in cause
        assert following.endswith(f"run --profile small --offload {address(server)}:first --dry-run")
        named = swarmctl("--offload", f"{address(server)}:second", "--dry-run")
        assert named.returncode == Exit.DONE, named.stderr
        assert ":second: it generates 100 %" in named.stdout
        with server.down():
            cause, following = told(swarmctl("--offload", address(server)))
            assert "connection refused" in cause
            assert following.endswith(f"--offload {address(server)}")
    with api_server(models=("bad\x1b[2J\n  try: x",)) as server:
        cause, _ = told(swarmctl("--offload", address(server)))
        assert cause.endswith("/v1 lists no model that completes chats. Name the one that it serves")
    assert not (home / "nodes").exists()


def test_a_server_that_needs_a_key_is_not_taken_for_free(home: Path, tmp_path: Path) -> None:
    with api_server(keys={KEY}) as server:
        profile(home, server)
        port = server.url.rpartition(":")[2]
        cause, following = told(swarmctl("--offload", address(server)))
        assert "cannot ask" in cause
        assert "requires a key" in cause
        assert following.endswith(f"keys set localhost-{port} --host {address(server)}")
        path = tmp_path / "key"
        path.write_text(KEY)
        variable = {f"SWARMCTL_LOCALHOST_{port}_API_KEY_FILE": str(path)}
        cause, following = told(swarmctl("--offload", address(server), **variable))
        assert f"the price of localhost-{port}:test-model is unknown" in cause
        assert f"--offload {address(server)}:test-model --set providers.localhost-{port}.free=true" in following
        agreed = ("--offload", f"{address(server)}:test-model", "--set", f"providers.localhost-{port}.free=true")
        done = untrained(*agreed, "--rounds", "1", **variable)
        assert done.returncode == Exit.DONE, done.stderr
    assert {entry.key for entry in server.ledger.chats} == {KEY}


def test_a_key_and_a_model_are_asked_for_on_a_terminal(home: Path) -> None:
    with api_server(keys={KEY}, models=("first", "second")) as server:
        profile(home, server)
        command = [*STAND_IN, "run", "-p", "small", "--offload", address(server), "--plain", "--max-usd", "unlimited"]
        environment = {key: value for key, value in os.environ.items() if key != "CI"}
        terminal = spawn(
            [*command, "--rounds", "1"], environment=environment | {"TERM": "xterm", "STAND_IN": "offload"}
        )
        terminal.expect(r"Store keys in\s+a\s+file .*N. ")
        terminal.sendline("y")
        terminal.expect("Key for localhost-.*not shown: ")
        terminal.sendline(KEY)
        terminal.expect("has 2 models: first, second")
        terminal.expect_exact("Model to generate with [first]: ")
        terminal.sendline("third")
        terminal.expect("The server does not list this model")
        terminal.sendline("second")
        terminal.expect("Done after 1 round")
        rest_of(terminal)
        assert terminal.exitstatus == Exit.DONE
    saved = json.loads((home / "nodes/small/config.json").read_text())["overrides"]
    assert saved["offload.model"] == "second"
    assert KEY not in json.dumps(saved)
