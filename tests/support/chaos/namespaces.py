"""Give each node its own network, like separate machines: Linux network namespaces, joined by bridges.

Each island has a bridge, and a cable joins the bridges. When the cable is pulled, packets are dropped silently, as by a
network failure far away. Everything is inside namespaces: this machine's own network does not change.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

_numbers = itertools.count()


def path_of(namespace: str) -> Path:
    """Return the file that represents a namespace."""
    return Path("/run/netns") / namespace


def obstacle() -> str | None:
    """Return why namespaces cannot be created here; None if they can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    probe = f"swarm-probe-{os.getpid()}"
    try:
        _ip("netns", "add", probe)
        _ip("-n", probe, "link", "set", "lo", "up")
        _ip("netns", "delete", probe)
    except FileNotFoundError:
        return "there is no `ip` (iproute2)"
    except subprocess.CalledProcessError as error:
        return f"network namespaces cannot be made: {error.stderr.strip()}"
    return None


class Network:
    """Islands of namespaces. A context manager that removes them at its end; all processes in them must have ended."""

    def __init__(self, islands: Sequence[int]) -> None:
        """``islands``: the number of namespaces of each island."""
        mark = f"swarm-{os.getpid()}-{next(_numbers)}"
        self._switch = f"{mark}-x"
        self._islands = tuple(islands)
        self.namespaces = tuple(f"{mark}-{number}" for number in range(sum(islands)))
        """One per machine, island by island."""

    def __enter__(self) -> Self:
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in (*self.namespaces, self._switch):
            if path_of(name).exists():
                _ip("netns", "delete", name)

    def cut(self, island: int) -> None:
        """Pull the island's cable."""
        self._inside("link", "set", f"cable{island}", "nomaster")

    def heal(self, island: int) -> None:
        """Plug the cable in again."""
        self._inside("link", "set", f"cable{island}", "master", f"island{island}")

    def _build(self) -> None:
        _ip("netns", "add", self._switch)
        self._bridge("sea")
        machines = iter(enumerate(self.namespaces))
        for island, size in enumerate(self._islands):
            self._bridge(f"island{island}")
            self._inside("link", "add", f"cable{island}", "type", "veth", "peer", "name", f"sea{island}")
            self._inside("link", "set", f"sea{island}", "master", "sea")
            for end in (f"cable{island}", f"sea{island}"):
                self._inside("link", "set", end, "up")
            self.heal(island)
            for number, name in itertools.islice(machines, size):
                _ip("netns", "add", name)
                port = f"port{number}"
                self._inside("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
                self._inside("link", "set", port, "master", f"island{island}", "up")
                _ip("-n", name, "address", "add", f"10.77.0.{number + 1}/24", "dev", "eth0")
                for device in ("lo", "eth0"):
                    _ip("-n", name, "link", "set", device, "up")

    def _bridge(self, name: str) -> None:
        self._inside("link", "add", name, "type", "bridge")
        self._inside("link", "set", name, "up")

    def _inside(self, *words: str) -> None:
        _ip("-n", self._switch, *words)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
