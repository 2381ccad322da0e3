"""The keys checks against files, variables and a real Secret Service: unlocked, locked, hanging or missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from swarmctl.doctor.check import Status
from swarmctl.doctor.checks import keys
from swarmctl.doctor.checks.api import checks as api
from tests.support import fake_keyrings as keyrings
from tests.support.command_line import ROOT
from tests.support.doctor import make

TOKEN, OTHER = "hf_abcdefghijklmnopqrstuvwxyz1234", "hf_abcdefghijklmnopqrstuvwxyz9876"


@pytest.fixture(autouse=True)
def _nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "WANDB_MODE", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name in ("DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


def test_where_the_hubs_token_comes_from(tmp_path: Path) -> None:
    assert "only gated and private models" in keys.huggingface(make()).text
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(OTHER + "\n")
    assert keys.huggingface(make()).text == "····9876 from ~/hf/token"
    both = keys.huggingface(make(environment={"HF_TOKEN": TOKEN}))
    assert both.text == "····1234 from $HF_TOKEN, which overrides ····9876 from ~/hf/token"
    assert keys.huggingface(make(environment={"HF_TOKEN": OTHER})).text == "····9876 from $HF_TOKEN"


def test_wandb_key_is_needed_only_if_wandb_is_used(tmp_path: Path) -> None:
    assert keys.wandb(make("demo")).text.startswith("not needed")
    wanted = 'report.to=["wandb"]'
    missing = keys.wandb(make("demo", wanted))
    assert missing.status is Status.FAILED
    assert missing.remedy == "swarmctl keys set wandb"
    assert keys.wandb(make("demo", wanted, environment={"WANDB_MODE": "offline"})).status is Status.OK
    assert keys.wandb(make("demo", wanted, environment={"WANDB_API_KEY": "0123456789" * 4})).status is Status.OK
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password 0123456789abcdefWXYZ\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert keys.wandb(make("demo", wanted)).text == "····WXYZ from ~/.netrc"


def test_wandb_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "find_spec", lambda _: None)
    found = keys.wandb(make("demo", 'report.to=["wandb"]'))
    assert (found.status, "not installed" in found.text) == (Status.FAILED, True)


def test_pushing_needs_a_token() -> None:
    found = keys.huggingface(make("demo", "hub.repo=me/mine"))
    assert (found.status, found.remedy) == (Status.FAILED, "swarmctl keys set huggingface")
    assert keys.huggingface(make("demo", "hub.repo=me/mine", environment={"HF_TOKEN": "hf_x"})).status is Status.OK


def test_short_key_is_hidden_entirely() -> None:
    assert keys.huggingface(make(environment={"HF_TOKEN": "short"})).text == "···· from $HF_TOKEN"


@pytest.mark.slow
def test_missing_keyring_is_not_a_problem() -> None:
    found = keys.keyring(make())
    assert found.status is Status.SKIPPED
    assert "no keyring on this machine" in found.text


def test_unusable_keyring_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keyring.py").write_text("raise ImportError('half installed')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = keys.keyring(make())
    assert (found.status, found.text) == (Status.FAILED, 'cannot use the keyring: "ImportError: half installed"')


def test_hanging_keyring_times_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keyring.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setattr("swarmctl.keys.keyring.ALONE_S", 0.5)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = keys.keyring(make())
    assert found.status is Status.UNKNOWN
    assert "did not respond within 0.5 s" in found.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("state", "status", "told"),
    [
        ("unlocked", "ok", "SecretService, unlocked"),
        ("locked", "warning", "SecretService is locked"),
        ("stopped", "unknown", "the keyring did not respond within 3 s"),
    ],
)
def test_a_real_secret_service(tmp_path: Path, state: str, status: str, told: str) -> None:
    with keyrings.bus(tmp_path / "session") as session, keyrings.unlocked(session) as daemon:
        if state == "locked":
            keyrings.lock(session)
        if state == "stopped":
            daemon.send_signal(signal.SIGSTOP)
        done = subprocess.run(
            [sys.executable, "-m", "swarmctl", "doctor", "keys.keyring", "-p", "demo", "--json"],
            cwd=ROOT,
            env=os.environ | session,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)["checks"][0]
    assert (row["status"], row["finding"].startswith(told)) == (status, True)


def test_api_check_is_skipped_without_a_provider() -> None:
    found = api.providers(make())
    assert (found.status, found.text) == (Status.SKIPPED, "no provider in this profile")
