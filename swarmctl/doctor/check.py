"""What a doctor check is, what it looks at and what it may find. The checks are listed in ``registry``."""

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
    """The result of a check, as the user sees it."""

    OK = "ok"
    WARNING = "warning"
    """A node runs, but not as well or as safely as it could."""
    FAILED = "failed"
    """A node will not run, or not with this profile."""
    SKIPPED = "skipped"
    """Not requested, not applicable or impossible to find out here; the finding says which."""
    UNKNOWN = "unknown"
    """No answer in time. The machine or the network may only be busy, so this is not a failure."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, in one line. It never contains a secret."""

    status: Status
    text: str
    remedy: str | None = None
    """A command that fixes the problem. A leading ``swarmctl`` is replaced by what starts this program here."""
    fix: Callable[[], str] | None = None
    """For ``--fix``: fixes what is safe to fix without asking, and returns a description of what it did."""


LATER = "Wait, then check again"
"""What to do about a service that fails."""
ok = partial(Finding, Status.OK)
skipped = partial(Finding, Status.SKIPPED)
warning = partial(Finding, Status.WARNING)
failed = partial(Finding, Status.FAILED)
unknown = partial(Finding, Status.UNKNOWN)


def quoted(paths: Iterable[Path]) -> str:
    """Return paths as quoted shell arguments."""
    return " ".join(shlex.quote(str(path)) for path in paths)


def bytes_in(directory: Path) -> int:
    """Return the total size of all files below a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


T = TypeVar("T")
_running: set[subprocess.Popen[str]] = set()


@dataclass(frozen=True, slots=True)
class Context:
    """The inputs of the checks, and the limits on what they may do."""

    resolved: Resolved | None = None
    """The profile as a run would resolve it; None if it is invalid, or none is checked."""
    problem: NodeError | None = None
    """Why the profile is invalid."""
    arguments: tuple[str, ...] = ()
    """``--profile``, ``--node`` and ``--set`` as given, for suggested commands that must refer to the same node."""
    deep: bool = False
    offline: bool = False
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    nodes: Path = Path()
    """The directory that holds the nodes."""
    sockets: Path = Path("/tmp")
    """Where hivemind's daemons put their sockets; they ignore TMPDIR."""
    known: dict[str, Future[Any]] = field(default_factory=dict, repr=False)
    """Results that several checks share, by name."""

    def once(self, name: str, find: Callable[[], T]) -> T:
        """Return the result of ``find``, which runs only once: the first caller runs it and the others wait.

        Raises what ``find`` raised.
        """
        mine: Future[T] = Future()
        known: Future[T] = self.known.setdefault(name, mine)  # atomic: only one thread gets its own future back
        if known is mine:
            try:
                mine.set_result(find())
            except Exception as error:  # noqa: BLE001 - raised below, and for every later caller
                mine.set_exception(error)
        return known.result()

    @property
    def machine_only(self) -> bool:
        """Whether no profile is checked."""
        return self.resolved is None and self.problem is None

    @property
    def config(self) -> Config:
        """The configuration. Only for checks with ``profile=True``."""
        assert self.resolved is not None
        return self.resolved.config

    @property
    def device(self) -> str:
        """The profile's device; "auto" without a valid profile."""
        return self.config.model.device if self.resolved else "auto"

    @property
    def keys(self) -> KeyFinder:
        """Finds keys as a run would. Silent, because a check cannot wait for someone to answer a keyring's dialog."""
        return KeyFinder(Prompter(silent=True), self.environment)

    @property
    def files(self) -> NodeFiles:
        """The files of the selected node, which need not exist."""
        return NodeFiles(self.nodes / self.config.node.name)

    def again(self, *arguments: str) -> str:
        """Return a ``doctor`` command for the same node with the given arguments."""
        return " ".join(["swarmctl", "doctor", *arguments, *map(shlex.quote, self.arguments)])

    def models(self, provider: str) -> str:
        """Return the command that lists a provider's models, with the profile that ``doctor`` was given.

        For one of your own, also with its settings.
        """
        from swarmctl.settings.command_line import models_arguments

        own = [] if self.resolved is None else models_arguments(self.resolved, provider)
        words = list(self.arguments)
        place = words.index("--profile") if "--profile" in words else len(words)
        return shlex.join(["swarmctl", "models", provider, *(own or words[place : place + 2])])

    @property
    def run(self) -> str:
        """The ``run`` command with the arguments that ``doctor`` was given."""
        return shlex.join(["swarmctl", "run", *self.arguments])

    def changed(self, **settings: object) -> str:
        """Return the ``run`` command for the same node with some settings (``section__key``) changed."""
        from swarmctl.settings.command_line import rerun

        assert self.resolved is not None
        return rerun(self.resolved, changes={tuple(name.split("__")): value for name, value in settings.items()})


@dataclass(frozen=True, slots=True)
class Check:
    """One check and its limits."""

    group: str
    name: str
    look: Callable[[Context], Finding]
    limit: float = 10.0
    """Seconds after which the check is abandoned and reported as unknown."""
    profile: bool = False
    """Whether the check needs a valid configuration."""
    deep: bool = False
    """Whether the check runs only with ``--deep``."""

    @property
    def key(self) -> str:
        return f"{self.group}.{self.name}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A check that has run, with its finding."""

    check: Check
    finding: Finding
    seconds: float


def ask(
    command: list[str], *, limit: float, environment: Mapping[str, str] | None = None, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program; after ``limit`` seconds, kill it and everything it started. It gets no keys.

    Raises OSError if the program cannot be started and ``subprocess.TimeoutExpired`` if it does not exit in time.
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
    """Kill the programs that are still running."""
    for process in list(_running):
        _kill(process)


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
