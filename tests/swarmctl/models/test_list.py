"""``swarmctl models``."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from swarmctl import cli
from swarmctl.errors import Exit
from tests.support.doctor_api import KEY, give_key, profile
from tests.support.fake_api.faults import Fault
from tests.support.fake_api.server import api_server


def test_models_are_listed_free_of_charge(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with api_server(keys={KEY}, models=["b", "a", "text-embedding-1"]) as server:
        give_key(tmp_path / "key", monkeypatch, KEY)
        profile(home, server.base_url, box="needs_key = true\nreasons = true")
        assert cli.run(["models", "box", "--profile", "offloaded"]) == Exit.DONE
        assert capsys.readouterr().out.splitlines() == [
            "model  input ($/M)  output ($/M)  context  reasons",
            "a                -             -        -  yes",
            "b                -             -        -  yes",
        ]
        assert cli.run(["models", "box", "-p", "offloaded", "--json"]) == Exit.DONE
        found = json.loads(capsys.readouterr().out)
        assert found["models"][0] == {"id": "a", "input": None, "output": None, "reasons": True, "context": None}
        assert (found["provider"], found["batch_price"], found["flex_price"]) == ("box", None, None)
        assert server.ledger.chats == ()


def test_a_service_without_a_list_is_an_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with api_server() as server:
        server.always(Fault.SERVER_ERROR, endpoint="models")
        profile(home, server.base_url)
        assert cli.run(["models", "box", "-p", "offloaded"]) == Exit.CONFIGURATION
    said = capsys.readouterr().err
    assert said.startswith("error: box did not send its list of models: the service responded with HTTP 500\n  try: ")
    assert said.endswith("swarmctl doctor api --profile offloaded\n")


def test_a_list_without_models_that_complete_chats(capsys: pytest.CaptureFixture[str]) -> None:
    with api_server(models=["text-embedding-1"]) as server:
        assert cli.run(["models", server.base_url]) == Exit.DONE
    captured = capsys.readouterr()
    assert (captured.out, captured.err.partition(" ")[2]) == ("", "lists no model that completes chats.\n")


def test_a_server_without_a_profile_is_given_by_its_address(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with api_server(models=["a"]) as server:
        assert cli.run(["models", server.base_url, "--json"]) == Exit.DONE
        found = json.loads(capsys.readouterr().out)
    assert [model["id"] for model in found["models"]] == ["a"]
    assert found["host"] == server.url.removeprefix("http://")
    assert cli.run(["models", server.base_url]) == Exit.CONFIGURATION
    error, suggestion = capsys.readouterr().err.splitlines()
    assert "did not send its list of models: connection refused" in error
    assert f"--set providers.{found['provider']}.base_url={server.base_url}" in suggestion


def test_a_local_server_that_is_free_in_a_run_is_free_in_the_list(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def prices(*arguments: str) -> list[float | None]:
        assert cli.run(["models", *arguments, "--json"]) == Exit.DONE
        document = json.loads(capsys.readouterr().out)
        return [model["output"] for model in document["models"]]

    with api_server(models=["a"]) as server:
        name = f"localhost-{server.url.rpartition(':')[2]}"
        assert prices(server.base_url) == [0]
        assert prices(server.base_url, "--set", f"providers.{name}.free=false") == [None]
        node = home / "nodes" / "n"
        node.mkdir(parents=True)
        (node / "node.json").write_text("{}")
        providers = {name: {"base_url": server.base_url, "needs_key": False, "free": True}}
        (node / "config.json").write_text(json.dumps({"schema": 1, "config": {"providers": providers}}))
        assert prices(name) == [0]


def test_a_server_of_a_node_is_found_by_its_name(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with api_server(models=["a"]) as server:
        for name, url in (("old", "http://127.0.0.1:9/v1"), ("new", server.base_url)):
            node = home / "nodes" / name
            node.mkdir(parents=True)
            (node / "node.json").write_text("{}")
            providers = {"localhost-1": {"base_url": url, "needs_key": False}}
            (node / "config.json").write_text(json.dumps({"schema": 1, "config": {"providers": providers}}))
            (node / "run.log").touch()
        os.utime(home / "nodes/old/node.json", (1, 1))
        assert cli.run(["models", "localhost-1"]) == Exit.DONE
        assert capsys.readouterr().out.splitlines()[1].split()[0] == "a"
        server.always(Fault.SERVER_ERROR, endpoint="models")
        assert cli.run(["models", "localhost-1"]) == Exit.CONFIGURATION
    *_, suggestion = capsys.readouterr().err.splitlines()
    assert suggestion.endswith(
        "swarmctl doctor api --set offload.provider=localhost-1:any "
        f"--set providers.localhost-1.base_url={server.base_url}"
    )


def test_unknown_providers_and_missing_keys_are_errors(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GROQ_API_KEY", raising=False)
    assert cli.run(["models", "grok"]) == Exit.CONFIGURATION
    assert "unknown provider 'grok'; did you mean groq?" in capsys.readouterr().err
    assert cli.run(["models", "grok", "-p", "demo"]) == Exit.CONFIGURATION
    assert capsys.readouterr().err.endswith("swarmctl models groq --profile demo\n")
    assert cli.run(["models", "groq", "--no-input"]) == Exit.CONFIGURATION
    said = capsys.readouterr().err
    assert said.startswith("error: no key for groq\n  try: ")
    assert said.endswith("swarmctl keys set groq\n")
    assert not (home / "nodes").exists()
