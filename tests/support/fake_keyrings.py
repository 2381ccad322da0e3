"""Real keyrings for tests: gnome-keyring on a separate bus, a locked one, and one that never answers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.patience import Patience

PROGRAMS = ("dbus-daemon", "gnome-keyring-daemon", "secret-tool")
_SILENT = """
import sys, time
from jeepney import DBusAddress, message_bus
from jeepney.io.blocking import Proxy, open_dbus_connection
bus = Proxy(message_bus, open_dbus_connection("SESSION"))
assert bus.RequestName("org.freedesktop.secrets")[0] == 1
print("ready", flush=True)
time.sleep(600)
"""
_LOCK = """
import secretstorage
secretstorage.get_default_collection(secretstorage.dbus_init()).lock()
"""


def require_programs() -> None:
    """Skip the test if no real Secret Service is available; in CI, fail it."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        reason = f"needs {', '.join(missing)}: install the packages in .ci/apt-packages.txt"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@contextmanager
def bus(home: Path) -> Iterator[dict[str, str]]:
    """Start a message bus in a separate session; yield the session's environment."""
    require_programs()
    home.mkdir(parents=True, exist_ok=True)
    runtime = home / "runtime"
    runtime.mkdir(mode=0o700)
    session = {"HOME": str(home), "XDG_RUNTIME_DIR": str(runtime), "XDG_DATA_HOME": str(home / "data")}
    daemon = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", "--print-address=1"],
        env=os.environ | session,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert daemon.stdout is not None
        yield session | {"DBUS_SESSION_BUS_ADDRESS": daemon.stdout.readline().strip()}
    finally:
        daemon.kill()
        daemon.wait()


@contextmanager
def unlocked(session: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run an unlocked gnome-keyring; yield its process."""
    daemon = subprocess.Popen(
        ["gnome-keyring-daemon", "--foreground", "--unlock", "--components=secrets"],
        env=os.environ | session,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert daemon.stdin is not None
        daemon.stdin.write(b"password of the test")
        daemon.stdin.close()
        patience = Patience(10)
        while look_up(session, "nothing") is None:
            assert not patience.is_over(), "gnome-keyring did not start"
            time.sleep(0.05)
        yield daemon
    finally:
        daemon.kill()
        daemon.wait()


@contextmanager
def silent(session: dict[str, str]) -> Iterator[None]:
    """Run a Secret Service that accepts every call and answers none."""
    stub = subprocess.Popen(
        [sys.executable, "-c", _SILENT], env=os.environ | session, stdout=subprocess.PIPE, text=True
    )
    try:
        assert stub.stdout is not None
        assert stub.stdout.readline() == "ready\n"
        yield
    finally:
        stub.kill()
        stub.wait()


def lock(session: dict[str, str]) -> None:
    """Lock the keyring."""
    subprocess.run([sys.executable, "-c", _LOCK], env=os.environ | session, check=True)


def look_up(session: dict[str, str], user: str) -> str | None:
    """Return a user's secret, read by another program; "" if there is none, None if no keyring is running."""
    done = subprocess.run(
        ["secret-tool", "lookup", "service", "swarmctl", "username", user],
        env=os.environ | session,
        capture_output=True,
        text=True,
        check=False,
    )
    return None if done.stderr else done.stdout
