"""What every check is, what it looks at, and how it asks a program. Adding one is a line in ``registry``."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hivemind_exp.errors import NodeError
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.secrets import without_secrets
from swarmctl.keys.finder import KeyFinder
from swarmctl.terminal.prompter import Prompter

if TYPE_CHECKING:
    from hivemind_exp.config import Config
    from swarmctl.settings.resolve import Resolved


class Status(StrEnum):
    """The outcome of a check, as the operator reads it."""

    OK = "ok"
    WARNING = "warning"
    """It runs, but not as well or as safely as it could."""
    FAILED = "failed"
    """It will not run, or not with this profile."""
    SKIPPED = "skipped"
    """Not asked for, not applicable or not knowable here; the finding says which."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check saw, in one line. Secrets never stand in it."""

    status: Status
    text: str
    remedy: str | None = None
    """A command that cures it; ``swarmctl …`` at its start is completed to what works here."""
    fix: Callable[[], str] | None = None
    """Cures what is safe to cure unasked and returns what it did; for ``--fix``."""


ok = partial(Finding, Status.OK)
skipped = partial(Finding, Status.SKIPPED)
warning = partial(Finding, Status.WARNING)
failed = partial(Finding, Status.FAILED)


def quoted(paths: Iterable[Path]) -> str:
    """Return paths as arguments of a command."""
    return " ".join(shlex.quote(str(path)) for path in paths)


def bytes_in(directory: Path) -> int:
    """Return the bytes of all files below a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


T = TypeVar("T")
_running: set[subprocess.Popen[str]] = set()


@dataclass(frozen=True, slots=True)
class Context:
    """What the checks look at, and how far they may go."""

    resolved: Resolved | None = None
    """The profile as a run would see it; None where it cannot be used."""
    problem: NodeError | None = None
    """Why it cannot be used."""
    arguments: tuple[str, ...] = ()
    """``--profile``, ``--node`` and ``--set`` as given, for commands that are to mean the same node."""
    deep: bool = False
    offline: bool = False
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    nodes: Path = Path()
    """The directory that holds the nodes."""
    sockets: Path = Path("/tmp")
    """Where hivemind's daemons put their sockets, whatever TMPDIR says."""
    known: dict[str, Future[Any]] = field(default_factory=dict, repr=False)
    """What several checks want to know, by name."""

    def once(self, name: str, find: Callable[[], T]) -> T:
        """Return what ``find`` returned the first time: the first check that asks looks, the others wait for it.

        Raises what it raised then.
        """
        mine: Future[T] = Future()
        known: Future[T] = self.known.setdefault(name, mine)  # atomic: one thread alone gets its own back
        if known is mine:
            try:
                mine.set_result(find())
            except Exception as error:  # noqa: BLE001 - raised below, and for all who ask again
                mine.set_exception(error)
        return known.result()

    @property
    def config(self) -> Config:
        """The configuration; only for checks that declare ``profile=True``."""
        assert self.resolved is not None
        return self.resolved.config

    @property
    def device(self) -> str:
        """The device that the profile wants; "auto" where it cannot be used."""
        return self.config.model.device if self.resolved else "auto"

    @property
    def keys(self) -> KeyFinder:
        """Finds keys as a run would. Silent: a keyring's dialog that waits for somebody is no answer to a check."""
        return KeyFinder(Prompter(silent=True), self.environment)

    @property
    def files(self) -> NodeFiles:
        """The files of the node that the command means; it need not exist."""
        return NodeFiles(self.nodes / self.config.node.name)

    def again(self, *arguments: str) -> str:
        """Return the ``doctor`` command for the same node with other arguments."""
        return " ".join(["swarmctl", "doctor", *arguments, *map(shlex.quote, self.arguments)])

    def changed(self, **settings: object) -> str:
        """Return the ``run`` command of the same node with some settings (``section__key``) changed."""
        from swarmctl.settings.command_line import rerun

        assert self.resolved is not None
        return rerun(self.resolved, changes={tuple(name.split("__")): value for name, value in settings.items()})


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at."""

    group: str
    name: str
    look: Callable[[Context], Finding]
    limit: float = 3.0
    """Seconds after which it is given up and reported as failed."""
    profile: bool = False
    """Whether it needs a configuration that is valid."""
    deep: bool = False
    """Whether it is for ``--deep`` alone."""

    @property
    def key(self) -> str:
        return f"{self.group}.{self.name}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A check that was made."""

    check: Check
    finding: Finding
    seconds: float


def ask(
    command: list[str], *, limit: float, environment: Mapping[str, str] | None = None, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, or kill it with all that it started after ``limit`` seconds. It gets no keys.

    Raises OSError where it cannot be started and ``subprocess.TimeoutExpired`` where it does not end.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL if text is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=without_secrets(os.environ if environment is None else environment),
        start_new_session=True,
    )
    _running.add(process)
    try:
        output, errors = process.communicate(text, timeout=limit)
    except BaseException:
        _kill(process)
        process.wait()
        raise
    finally:
        _running.discard(process)
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def end_programs() -> None:
    """Kill the programs that still run."""
    for process in list(_running):
        _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
