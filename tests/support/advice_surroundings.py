"""What is there while ``swarmctl`` suggests a command: running nodes, servers, busy ports, keyrings."""

from __future__ import annotations

import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hivemind_exp.node_files import NodeFiles
from swarmctl.keys import keyring as keyrings
from tests.support import fake_keyrings
from tests.support.fake_services import Service, service
from tests.support.forked_swarmctl import ForkedSwarmctl
from tests.support.tls import certificate, https_server
from tests.support.waiting import until

MODELS = '{"data": [{"id": "m"}]}'
"""The list of a server with one model."""
Around = Callable[[Path], AbstractContextManager[str]]


def program(home: Path, name: str, script: str) -> None:
    """Write a shell script to the directory ``bin`` beside the home directory."""
    path = home.parent / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@contextmanager
def _running(home: Path, name: str, rounds: int) -> Iterator[ForkedSwarmctl]:
    words = ("run", "-p", "demo", "--node", name, "--rounds", str(rounds))
    files = NodeFiles(home / "nodes" / name)
    with tempfile.TemporaryDirectory() as place:
        process = ForkedSwarmctl(words, {"STAND_IN": "run"}, Path(place), stand_in=True)
        try:
            until(lambda: files.events.exists() or process.poll() is not None)
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(60)


def running(*names: str, rounds: int = 0) -> Around:
    """Return nodes that run meanwhile; 0 rounds: until they are stopped."""

    @contextmanager
    def run(home: Path) -> Iterator[str]:
        with ExitStack() as stack:
            for name in names:
                stack.enter_context(_running(home, name, rounds))
            yield ""

    return run


@contextmanager
def suspended(home: Path) -> Iterator[str]:
    """Keep a running node suspended, as Ctrl-Z does; yield its process."""
    with _running(home, "maths", 0) as process:
        process.send_signal(signal.SIGSTOP)
        yield str(process.pid)


@contextmanager
def busy_port(_home: Path) -> Iterator[str]:
    """Listen on a port; yield it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield str(listener.getsockname()[1])


def answering(act: str) -> Around:
    """Return a service that answers as ``fake_services`` says; it yields its URL."""

    @contextmanager
    def serve(_home: Path) -> Iterator[str]:
        with service() as server:
            server.act = act
            yield server.url

    return serve


class _Outage:
    """A service that fails until ``over``."""

    def __init__(self, act: str) -> None:
        self._act, self._server = act, list[Service]()

    @contextmanager
    def begin(self, _home: Path) -> Iterator[str]:
        with service() as server:
            server.act = self._act
            self._server.append(server)
            yield server.url

    @contextmanager
    def over(self) -> Iterator[None]:
        self._server[-1].act = MODELS
        yield


def outage(act: str) -> dict[str, Any]:
    """Return what a state with a service that fails needs. ``act``: as ``fake_services`` says."""
    made = _Outage(act)
    return {"around": made.begin, "meanwhile": made.over}


@contextmanager
def untrusted(home: Path) -> Iterator[str]:
    """Serve HTTPS with a certificate that nobody trusts; yield the URL."""
    with https_server(certificate(home.parent / "own.pem", "localhost")) as url:
        yield url


def _waited_for() -> Any:
    """Return a context in which commands wait long enough for a keyring that a busy machine delays."""
    return patch.object(keyrings, "ALONE_S", 120.0)


@contextmanager
def keyring(home: Path) -> Iterator[str]:
    """Run an unlocked keyring; yield the address of its bus."""
    with _waited_for(), fake_keyrings.bus(home.parent) as session, fake_keyrings.unlocked(session):
        yield session["DBUS_SESSION_BUS_ADDRESS"]


@contextmanager
def locked(home: Path) -> Iterator[str]:
    """Run a locked keyring; yield the address of its bus."""
    with _waited_for(), fake_keyrings.bus(home.parent) as session, fake_keyrings.unlocked(session):
        fake_keyrings.lock(session)
        yield session["DBUS_SESSION_BUS_ADDRESS"]


@contextmanager
def silent(home: Path) -> Iterator[str]:
    """Run a keyring that answers nothing; yield the address of its bus."""
    with fake_keyrings.bus(home.parent) as session, fake_keyrings.silent(session):
        yield session["DBUS_SESSION_BUS_ADDRESS"]
