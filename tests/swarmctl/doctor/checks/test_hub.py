"""The hub checks against a fake hub, a dead port and local directories."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hivemind_exp.errors import KeyProblem
from swarmctl.doctor import command, registry
from swarmctl.doctor.check import Finding, Status
from swarmctl.doctor.checks import hub
from swarmctl.keys.finder import KeyFinder
from swarmctl.terminal.prompter import Prompter
from tests.support.doctor import make, reply, serve
from tests.support.fake_hub import COMMIT, serve_hub
from tests.support.fake_hub_uploads import Account, uploads

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz1234"


@pytest.fixture(autouse=True)
def _no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return path


def look(address: str, name: str = "me/model", *more: str, **environment: str) -> Finding:
    return hub.model(make("default", f"model.name={name}", *more, environment={"HF_ENDPOINT": address, **environment}))


def test_a_model_on_the_hub_is_found(model: Path) -> None:
    with serve_hub({"me/model": model}) as address:
        assert look(address).status is Status.OK
        found = look(address, "me/other")
        assert found.status is Status.FAILED
        assert "the hub has no model me/other (a private model needs a token)" in found.text
        found = look(address, "me/model", "model.revision=v9")
        assert (found.status, "no revision v9" in found.text) == (Status.FAILED, True)
        assert "model.revision=main" in (found.remedy or "")


def test_a_gated_model_needs_an_account(model: Path) -> None:
    with serve_hub({"me/model": model}, gated=("me/model",)) as address:
        found = look(address)
        assert (found.status, found.remedy) == (Status.FAILED, hub.login())
        found = look(address, HF_TOKEN=TOKEN)
        assert found.status is Status.FAILED
        assert "····1234 from $HF_TOKEN has no access to it" in found.text
        assert TOKEN not in found.text


def test_unreachable_or_failing_hub() -> None:
    dead = hub.model(make("default"))
    assert dead.status is Status.FAILED
    assert "is unreachable: connection refused" in dead.text
    assert dead.remedy == "swarmctl run --profile demo"
    with serve(reply(503)) as address:
        assert look(address).status is Status.WARNING
    assert hub.model(make("default", offline=True)).status is Status.SKIPPED
    forbidden = hub.model(make("default", environment={"HF_HUB_OFFLINE": "1"}))
    assert (forbidden.status, forbidden.remedy) == (Status.FAILED, "unset HF_HUB_OFFLINE")


def test_a_cached_model_needs_no_hub(tmp_path: Path) -> None:
    repository = tmp_path / "hf" / "hub" / "models--me--model"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot / "config.json").write_text("{}")
    context = make("default", "model.name=me/model", offline=True)
    assert "only the configuration of me/model is cached" in hub.model(context).text
    os.symlink("../../blobs/missing", snapshot / "model.safetensors")
    assert hub.model(context).status is Status.SKIPPED
    (repository / "blobs").mkdir()
    (repository / "blobs" / "missing").write_bytes(b"x" * 2**20)
    found = hub.model(context)
    assert (found.status, found.text) == (Status.OK, "me/model is cached, 1 MiB")


def test_a_model_in_a_directory(model: Path) -> None:
    found = hub.model(make("default", f"model.name={model}"))
    assert (found.status, "no weights" in found.text) == (Status.FAILED, True)
    (model / "model.safetensors").write_bytes(b"x")
    assert hub.model(make("default", f"model.name={model}")).status is Status.OK
    (model / "config.json").unlink()
    assert "config.json is missing" in hub.model(make("default", f"model.name={model}")).text
    (model / "model.Q4.gguf").touch()
    assert "only GGUF weights, which cannot be trained" in hub.model(make("default", f"model.name={model}")).text
    assert hub.model(make("demo")).status is Status.OK


@pytest.mark.parametrize(
    ("status", "expected"),
    [(200, Status.OK), (401, Status.FAILED), (403, Status.FAILED), (500, Status.SKIPPED)],
)
def test_token_is_sent_to_the_hub_and_its_status_reported(status: int, expected: Status) -> None:
    with serve(reply(status)) as address:
        found = hub.token(make(environment={"HF_ENDPOINT": address, "HF_TOKEN": TOKEN}))
    assert found.status is expected
    assert found.text.startswith("····1234 from $HF_TOKEN")
    assert (found.remedy == "unset HF_TOKEN") == (expected is Status.FAILED)


@pytest.mark.parametrize(
    ("role", "repo", "expected"),
    [
        ("read", "me/x", Status.FAILED),
        ("write", "me/x", Status.OK),
        ("fineGrained", "me/x", Status.OK),
        ("read", "", Status.OK),
    ],
)
def test_pushing_needs_a_token_with_write_access(role: str, repo: str, expected: Status) -> None:
    with uploads(Account(token=TOKEN, role=role)) as address:
        context = make("demo", f"hub.repo={repo}", environment={"HF_ENDPOINT": address, "HF_TOKEN": TOKEN})
        found = hub.token(context)
    assert found.status is expected
    assert (found.remedy == "swarmctl keys set huggingface") == (expected is Status.FAILED)


def test_saved_hub_token_is_not_sent_to_another_address(tmp_path: Path, model: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    account = Account(token=TOKEN)
    with uploads(account) as address:
        environment = {"HF_ENDPOINT": address, "HF_TOKEN_PATH": str(tmp_path / "token")}
        found = hub.token(make("demo", environment=environment))
        hub.model(make("default", "model.name=me/model", environment=environment))
    assert (found.status, "is not sent to" in found.text) == (Status.SKIPPED, True)
    assert [shown for _, shown, _ in account.shown] == [None]


def test_unreadable_token_is_reported_as_a_run_reports_it(tmp_path: Path) -> None:
    environment = {"SWARMCTL_HUGGINGFACE_API_KEY_FILE": str(tmp_path / "gone"), "HF_TOKEN": TOKEN}
    context = make("demo", environment=environment)
    with pytest.raises(KeyProblem) as error:
        KeyFinder(Prompter(silent=True), context.environment).find("huggingface")
    for check in registry.select(["keys.huggingface", "hub.token"], context):
        found = command.look(check, context)
        assert (found.status, found.text, found.remedy) == (Status.FAILED, error.value.message, error.value.next)


def test_saved_token_is_not_sent_unencrypted(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    for address, shown in (("http://huggingface.co", False), ("https://huggingface.co/", True)):
        environment = {"HF_ENDPOINT": address, "HF_TOKEN_PATH": str(tmp_path / "token")}
        key = KeyFinder(Prompter(silent=True), environment).find("huggingface")
        assert key is not None
        assert (key.rival(environment) is None) == shown


def test_token_that_cannot_be_checked() -> None:
    assert hub.token(make()).text == "no token; only gated and private models need one"
    assert hub.token(make(environment={"HF_TOKEN": TOKEN}, offline=True)).status is Status.SKIPPED
    assert "cannot reach" in hub.token(make(environment={"HF_TOKEN": TOKEN})).text
