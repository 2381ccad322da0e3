"""``swarmctl keys test`` against a real server that sends every kind of response."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.keys.probe import probe
from swarmctl.keys.saved import read_entry
from tests.support.fake_services import GOOD, Service, service


@pytest.fixture
def server() -> Iterator[Service]:
    with service() as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "result", "expected"),
    [
        ("models", "valid", "12 models"),
        ("list", "valid", "1 model"),
        ("here", "valid", "0 models"),
        ("402", "no_credit", "no credit left (HTTP 402)"),
        ("429", "no_credit", "no credit left (HTTP 429)"),
        ("slow down", "unreachable", "the service is limiting requests (HTTP 429)"),
        ("400", "refused", "does not accept the key (HTTP 400)"),
        ("500", "unreachable", "HTTP 500"),
        ("404", "not_understood", "no list of models"),
        ("garbage", "unreachable", ""),
        ("page", "not_understood", "another kind of server"),
        ('{"data": {}}', "not_understood", "another kind of server"),
        ("hang", "unreachable", "no response within 1 s"),
        ("drip", "unreachable", "no response within 1 s"),
    ],
)
def test_server_responses(server: Service, act: str, result: str, expected: str) -> None:
    server.act = act
    finding = probe("mybox", server.url, GOOD, limit=1)
    assert (finding.result, expected in finding.detail) == (result, True), finding
    assert GOOD not in finding.detail


def test_a_wrong_key_is_refused(server: Service) -> None:
    assert probe("mybox", server.url, "sk-wrong").result == "refused"
    assert server.asked == [("/v1/models", "Bearer sk-wrong")]


def test_unreachable_servers() -> None:
    assert probe("mybox", "http://127.0.0.1:1/v1", GOOD).result == "unreachable"
    assert probe("mybox", "http://no-such-host.invalid/v1", GOOD, limit=5).result == "unreachable"


def test_the_key_does_not_follow_a_redirect_to_another_host(server: Service) -> None:
    with service() as thief:
        server.act, server.elsewhere = "elsewhere", thief.url + "/models"
        finding = probe("mybox", server.url, GOOD)
        assert finding.result == "unreachable"
        host = thief.url.split("/")[2]
        assert f"redirects to {host}, and the key was not sent there" in finding.detail
        assert thief.asked == []


@pytest.mark.parametrize(
    ("name", "answer", "path", "expected"),
    [
        ("huggingface", '{"name": "ada"}', "/api/whoami-v2", ("valid", "belongs to ada")),
        ("wandb", '{"data": {"viewer": {"username": "ada"}}}', "/graphql", ("valid", "belongs to ada")),
        ("wandb", '{"data": {"viewer": null}}', "/graphql", ("refused", "belongs to no account")),
        ("openrouter", '{"data": {"limit_remaining": null}}', "/key", ("valid", "accepted")),
        ("openrouter", '{"data": {"limit_remaining": 0}}', "/key", ("no_credit", "used up")),
        ("openrouter", "[]", "/key", ("not_understood", "another kind")),
    ],
)
def test_services_that_report_the_keys_owner(
    server: Service, name: str, answer: str, path: str, expected: tuple[str, str]
) -> None:
    server.act = answer
    finding = probe(name, server.url.removesuffix("/v1"), GOOD)
    assert finding.result == expected[0]
    assert expected[1] in finding.detail
    ((asked, authorization),) = server.asked
    assert asked == path
    assert str(authorization).startswith("Basic" if name == "wandb" else "Bearer")


def save(server: Service, monkeypatch: pytest.MonkeyPatch, key: str, *options: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO(key))
    return cli.run(["keys", "set", "mybox", "--host", server.url, "--insecure-storage", *options])


def test_set_tests_keys_and_does_not_save_refused_ones(
    server: Service, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert save(server, monkeypatch, GOOD) == Exit.DONE
    assert "Tested: valid, 12 models." in capsys.readouterr().err
    assert save(server, monkeypatch, "sk-wrong-0123456789") == Exit.CHECK_FAILED
    err = capsys.readouterr().err
    assert "refused this key for mybox: " in err
    assert err.endswith(f"keys set mybox --host {server.url} --insecure-storage\n")  # with all that was typed
    assert "sk-wrong-0123456789" not in err
    entry = read_entry("mybox")
    assert entry is not None
    assert (entry.last_four, entry.result) == ("cdef", "valid")
    server.act = "500"
    assert save(server, monkeypatch, "sk-other-0123456789") == Exit.DONE
    err = capsys.readouterr().err
    assert "warning: could not test the key: the service responded with HTTP 500. To test it later: " in err
    assert "swarmctl keys test mybox\n" in err


def test_keys_test_command(
    server: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["keys", "test"]) == Exit.CONFIGURATION
    assert cli.run(["keys", "test", "mybox"]) == Exit.CONFIGURATION
    save(server, monkeypatch, GOOD, "--no-test")
    capsys.readouterr()
    assert cli.run(["keys", "test", "mybox"]) == Exit.DONE
    out = capsys.readouterr().out
    assert "mybox: valid, 12 models (····cdef from 0600 file, 127.0.0.1:" in out
    assert "model-7 and 4 more" in out
    server.act = "402"
    assert cli.run(["key", "test", "--json"]) == Exit.CHECK_FAILED
    tested = json.loads(capsys.readouterr().out)
    assert (tested["schema"], tested["ok"]) == (1, False)
    (row,) = tested["tests"]
    fields = ["name", "host", "where", "last_four", "result", "detail", "models", "time"]
    assert list(row) == fields
    assert row["result"] == "no_credit"
    assert row["models"] is None
    cli.run(["keys", "list", "--json"])
    (listed,) = json.loads(capsys.readouterr().out)["keys"]
    assert listed["result"] == "no_credit"
    assert listed["tested"] >= row["time"][:10]
