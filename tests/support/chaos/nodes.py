"""Real nodes in separate processes and home directories, which create a swarm, join it, die and restart."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import psutil

from hivemind_exp import event_files
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.swarm.dht.leftovers import socket_prefix
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.invitation import Invitation, parse
from tests.support.chaos.patience import until
from tests.support.command_line import ROOT, SWARMCTL, write_profile
from tests.support.restarts import processes

if TYPE_CHECKING:
    from tests.support.forked_swarmctl import ForkedSwarmctl

PROFILE = "chaos"
_MARK = "SWARM_CHAOS"


@dataclass
class Node:
    """One machine's node, over all its restarts."""

    name: str
    home: Path
    namespace: str | None = None
    life: Life | None = None
    deaths: int = 0
    """How often it was killed."""
    stops: int = 0
    """How often it was stopped."""
    away: list[tuple[float, float]] = field(default_factory=list)
    """When it was frozen or stopped: (begin, end) in Unix seconds."""

    @property
    def files(self) -> NodeFiles:
        return NodeFiles(self.home / "nodes" / self.name)

    @property
    def peer(self) -> str:
        """Its peer id, which exists once it has been started."""
        return Identity.load(self.files.key).peer_id

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return its events, or those with one name. A line that was cut off by a full disk has none."""
        told: list[dict[str, Any]] = []
        for line in event_files.lines(self.files.events):
            with contextlib.suppress(ValueError):
                told.append(json.loads(line))
        return [event for event in told if name is None or event["event"] == name]

    @property
    def ends(self) -> int:
        return self.deaths + self.stops

    def rounds(self) -> int:
        """Return its number of round events."""
        return max((event["round"] + 1 for event in self.events("round")), default=0)


class Life(Protocol):
    """A node's processes from one start to the next end."""

    def trainer(self) -> psutil.Process | None:
        """The trainer process; None if there is none."""

    @property
    def ended(self) -> bool: ...

    def ask(self) -> None:
        """Request a stop as a user would."""

    def kill(self) -> None:
        """Kill all its processes at once, like a power cut."""

    def wait(self, seconds: float) -> bool:
        """Wait for the end; return whether the processes ended."""


class Swarm:
    """Nodes of one swarm. A context manager: at its end no process is left, whatever happened."""

    def __init__(self, root: Path, names: Sequence[str], namespaces: Sequence[str] = (), settings: str = "") -> None:
        """``namespaces``: one per node, or none; ``settings``: more of the nodes' profile, as TOML."""
        self.nodes = [Node(name, root / name) for name in names]
        for node, namespace in zip(self.nodes, namespaces, strict=False):
            node.namespace = namespace
        self._settings = settings
        self._mark = secrets.token_hex(8)
        self._sockets: set[Path] = set()
        self._sessions: set[int] = set()
        self.invitation = Invitation("0" * 64)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.left_processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        for node in self.nodes:
            if node.life is not None:
                node.life.wait(10)

    @property
    def founder(self) -> Node:
        return self.nodes[0]

    def found(self) -> None:
        """Create the swarm as a user does. The invitation has only the first node's address."""
        for node in self.nodes:
            loopback = "true" if node.namespace is None else "false"
            write_profile(node.home, PROFILE, f'extends = "demo"\n[swarm]\nloopback = {loopback}\n{self._settings}')
        command = self._command(self.founder, "swarm", "new", self.founder.name, "--profile", PROFILE, "--json")
        done = subprocess.run(command, env=self._environment(self.founder), cwd=ROOT, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        self.invitation = parse(json.loads(done.stdout)["invitation"])

    def start(self, node: Node) -> None:
        """Start or restart a node."""
        assert node.life is None or node.life.ended
        node.life = self._start(node)

    def stop(self, node: Node, patience: float = 30.0) -> None:
        """Stop a node as a user does. Raises TimeoutError if it does not stop."""
        assert node.life is not None
        node.stops += 1
        node.life.ask()
        if not node.life.wait(patience):
            raise TimeoutError(f"{node.name} does not stop")

    def watch(self) -> None:
        """Record processes and sockets that could be left over. Call this several times per second as processes die."""
        for node in self.nodes:
            trainer = node.life.trainer() if node.life is not None else None
            with contextlib.suppress(psutil.Error):
                if trainer is not None and os.getsid(trainer.pid) == trainer.pid:  # not before it has its own session
                    self._sessions.add(trainer.pid)
                if (daemon := daemon_of(trainer)) is not None:
                    self._sockets.update(sockets_of(daemon))

    def left_processes(self) -> list[psutil.Process]:
        """Return the swarm's running processes."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                ours = os.getsid(process.pid) in self._sessions or process.environ().get(_MARK) == self._mark
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def left_sockets(self) -> list[Path]:
        """Return the existing socket files of the swarm's daemons."""
        for node in self.nodes:
            prefix = Path(socket_prefix(node.files.key))
            self._sockets.update(prefix.parent.glob(f"{prefix.name}*"))
        return sorted(path for path in self._sockets if path.exists())

    def _start(self, node: Node) -> Life:
        raise NotImplementedError

    def _command(self, node: Node, *words: str) -> list[str]:
        there = ["ip", "netns", "exec", node.namespace] if node.namespace is not None else []
        return [*there, *SWARMCTL, *words]

    def _environment(self, node: Node) -> dict[str, str]:
        return {**os.environ, "SWARMCTL_HOME": str(node.home), _MARK: self._mark}


class CommandSwarm(Swarm):
    """Each node is a ``swarmctl run``, as users start it."""

    def _start(self, node: Node) -> Life:
        # A node with files resumes in its swarm; only a new one needs the invitation.
        known = node is self.founder or node.files.charter.exists()
        join = () if known else ("--join", str(self.invitation), "--profile", PROFILE)
        return self._run(node, ("run", "--node", node.name, "--quiet", "--plain", "--no-input", *join))

    def _run(self, node: Node, words: Sequence[str]) -> Life:
        with (node.home / "output").open("ab") as output:
            process = subprocess.Popen(
                self._command(node, *words),
                cwd=ROOT,
                env=self._environment(node),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return Command(process)


class ForkedCommandSwarm(CommandSwarm):
    """Each node is a ``swarmctl run`` that starts within a second (see ``forked_swarmctl``)."""

    def _run(self, node: Node, words: Sequence[str]) -> Life:
        from tests.support.forked_swarmctl import ForkedSwarmctl

        process = ForkedSwarmctl(words, self._environment(node), node.home, output="output", errors="output")
        self._sessions.add(process.pid)
        return Command(process)


@dataclass
class Command:
    """The life of a ``swarmctl run``."""

    process: subprocess.Popen[bytes] | ForkedSwarmctl

    def trainer(self) -> psutil.Process | None:
        with contextlib.suppress(psutil.Error):
            for child in _children(psutil.Process(self.process.pid)):
                if os.getsid(child.pid) == child.pid:
                    return child
        return None

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def ask(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        trainer = self.trainer()
        self.process.kill()
        if trainer is not None:
            kill_family(trainer)

    def wait(self, seconds: float) -> bool:
        return until(lambda: self.ended, seconds)


class ForkedSwarm(Swarm):
    """Each node is only the trainer process, which starts within a second (see ``forked``)."""

    def __init__(self, root: Path, names: Sequence[str], namespaces: Sequence[str] = (), settings: str = "") -> None:
        super().__init__(root, names, namespaces, settings)
        self._processes = processes()

    def _start(self, node: Node) -> Life:
        from tests.support.chaos.forked import play

        config = json.loads(self.founder.files.config.read_bytes())["config"]
        config["node"] |= {"name": node.name, "seed": sum(node.name.encode())}
        config["swarm"]["join"] = str(self.invitation)
        node.files.root.mkdir(parents=True, exist_ok=True)
        order = {"mode": "run", "config": config, "node_dir": str(node.files.root), "secrets_fd": None}
        theirs, ours = self._processes.Pipe(duplex=False)
        process = self._processes.Process(target=play, args=(theirs, node.files.log, node.namespace))
        process.start()
        theirs.close()
        os.write(ours.fileno(), json.dumps(order).encode() + b"\n")
        assert process.pid is not None
        return _Forked(process, ours)


@dataclass
class _Forked:
    process: Any
    line: Any
    """Kept open, because the trainer ends when it is closed."""

    def trainer(self) -> psutil.Process | None:
        with contextlib.suppress(psutil.Error):
            return None if self.ended else psutil.Process(self.process.pid)
        return None

    @property
    def ended(self) -> bool:
        return not self.process.is_alive()

    def ask(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        if (trainer := self.trainer()) is not None:
            kill_family(trainer)

    def wait(self, seconds: float) -> bool:
        return until(lambda: self.ended, seconds)


def daemon_of(trainer: psutil.Process | None) -> psutil.Process | None:
    """Return a trainer's p2pd; None if it has none."""
    with contextlib.suppress(psutil.Error):
        for child in _children(trainer) if trainer is not None else ():
            if child.name() == "p2pd" and child.status() != psutil.STATUS_ZOMBIE:
                return child
    return None


def _children(process: psutil.Process) -> Iterator[psutil.Process]:
    """Yield a process's children. On Linux, this is cheaper than psutil's way, which reads all processes."""
    try:
        tasks = list(Path(f"/proc/{process.pid}/task").iterdir())
        ids = [int(number) for task in tasks for number in (task / "children").read_text().split()]
    except OSError:  # no such directory, or the process has just ended
        yield from process.children()
        return
    for number in ids:
        with contextlib.suppress(psutil.NoSuchProcess):
            yield psutil.Process(number)


def sockets_of(daemon: psutil.Process) -> Iterator[Path]:
    """Return the socket files that connect a p2pd and its trainer. Raises psutil.Error."""
    for word in daemon.cmdline():
        _, mark, path = word.partition("=/unix/")
        if mark:
            yield Path("/" + path)
            yield Path("/" + path.replace("p2pd-", "p2pclient-"))


def kill_family(process: psutil.Process) -> None:
    """Kill a process and its descendants."""
    with contextlib.suppress(psutil.Error):
        for member in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                member.send_signal(signal.SIGKILL)
