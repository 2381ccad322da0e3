"""Nodes whose trainers ``swarmctl`` restarts."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.chaos.nodes import Command, CommandSwarm, Life, Node
from tests.support.command_line import ROOT

COMPRESSED = [sys.executable, "-m", "tests.support.compressed_time"]


class SupervisedSwarm(CommandSwarm):
    """Each node is a ``swarmctl run --restart on-failure`` in compressed time."""

    def __init__(self, root: Path, names: Sequence[str], namespaces: Sequence[str] = (), settings: str = "") -> None:
        super().__init__(root, names, namespaces, settings)
        self.variables: dict[str, dict[str, str]] = {}
        """More variables of a node's environment, by its name."""
        self.group: ControlGroup | None = None
        """Limits the memory of all nodes together."""

    def _run(self, node: Node, words: Sequence[str]) -> Life:
        with (node.home / "output").open("ab") as output:
            process = subprocess.Popen(
                [*([] if self.group is None else self.group.prefix), *COMPRESSED, *words, "--restart", "on-failure"],
                cwd=ROOT,
                env=self._environment(node) | self.variables.get(node.name, {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return Command(process)


@dataclass(frozen=True)
class ControlGroup:
    """A group of processes whose memory the kernel limits (Linux, as root)."""

    path: Path

    @classmethod
    def create(cls, name: str) -> ControlGroup | None:
        """Return a new group; None if this machine does not allow it."""
        groups = Path("/sys/fs/cgroup")
        path = (groups / "memory" if (groups / "memory").is_dir() else groups) / name
        try:
            path.mkdir()
        except OSError:
            return None
        group = cls(path)
        if group._limit.exists():
            return group
        path.rmdir()
        return None

    @property
    def prefix(self) -> list[str]:
        """The beginning of a command that runs in the group."""
        return ["sh", "-c", f'echo 0 > {self.path}/cgroup.procs && exec "$@"', "sh"]

    def limit(self, size: int | None) -> None:
        """Limit the memory to ``size`` bytes; None: no limit."""
        none = "max" if self._limit.name == "memory.max" else "-1"
        self._limit.write_text(none if size is None else str(size))

    def used(self) -> int:
        """Return the memory in use, in bytes, without what the kernel can free."""
        pids = map(int, (self.path / "cgroup.procs").read_text().split())
        return sum(psutil.Process(pid).memory_info().rss for pid in pids)

    def remove(self) -> None:
        """Remove the group, whose processes have ended."""
        self.path.rmdir()

    @property
    def _limit(self) -> Path:
        old = self.path / "memory.limit_in_bytes"
        return old if old.exists() else self.path / "memory.max"


class Clock:
    """A time of day that a node's processes see instead of the machine's (``clock.c``)."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError if there is no C compiler."""
        directory.mkdir(exist_ok=True)
        self._file, self._library = directory / "clock", directory / "clock.so"
        source = Path(__file__).with_name("clock.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", self._library, source, "-ldl"], check=True)
        self.set(0)

    def set(self, seconds: int) -> None:
        """Set the clock to so many seconds from now; negative: into the past."""
        with self._file.open("r+b" if self._file.exists() else "w+b", buffering=0) as file:
            file.write(struct.pack("q", seconds))  # in place: the processes have it in memory

    @property
    def variables(self) -> dict[str, str]:
        """The environment of processes that see this clock."""
        return {"LD_PRELOAD": str(self._library), "SOAK_CLOCK": str(self._file)}
