"""A separate home directory for every test, and fixtures that run the command line."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hivemind_exp.secrets import without_secrets
from tests.support.command_line import Cli
from tests.support.forked_swarmctl import swarmctl
from tests.support.patience import Patience


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the user's files, variables, keys and proxies out of every test."""
    for name in set(os.environ) - without_secrets(os.environ).keys():
        monkeypatch.delenv(name)
    for name in list(os.environ):
        if name.startswith("SWARMCTL_"):
            monkeypatch.delenv(name)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    path = tmp_path / "home"
    monkeypatch.setenv("SWARMCTL_HOME", str(path))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path}/no-bus")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return path


@pytest.fixture
def stand_in() -> Cli:
    """Run ``swarmctl`` with the stand-in as its trainer; ``act`` is what it does."""

    def run(*arguments: str, act: str = "run", **environment: str) -> subprocess.CompletedProcess[str]:
        return swarmctl(*arguments, stand_in=True, **{"STAND_IN": act} | environment)

    return run


@pytest.fixture
def no_leftovers(home: Path) -> Iterator[None]:
    """Assert that the test leaves no process that uses its home directory. One that is ending has a moment for it."""
    yield
    left = [process for process in psutil.process_iter() if _belongs(process, home)]
    patience = Patience(3)
    while (alive := psutil.wait_procs(left, timeout=0.1)[1]) and not patience.is_over():
        pass
    assert [process.cmdline() for process in alive] == []


def _belongs(process: psutil.Process, home: Path) -> bool:
    try:
        return process.pid != os.getpid() and process.environ().get("SWARMCTL_HOME") == str(home)
    except psutil.Error:
        return False
