"""Let the machine and the API of one node fail in every way, one after the other, and see that it goes on by itself."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from swarmctl.nodes.status import state_of
from tests.support.chaos import evidence
from tests.support.chaos.attacks import OFFLOADED, Victim, find, money_faults, output
from tests.support.chaos.patience import until
from tests.support.chaos.supervised import Clock, ControlGroup, SupervisedSwarm
from tests.support.engine_rig import PRICE_IN, PRICE_OUT, accounts
from tests.support.fake_api.faults import Fault
from tests.support.fake_api.remote import RemoteServer

DISK = "size=256m,nr_inodes=2000"
PATIENCE_S = 180.0
HANG_AFTER_S = 15
SUPERVISION = f"""
[supervision]
hang_after = {HANG_AFTER_S}
"""
_BALLOON = """
import time
held = []
while True:
    held.append(bytearray(b"x" * (8 << 20)))
    time.sleep(0.05)
"""


@dataclass
class FailingNode:
    """One node, on a small disk, under a limit of memory, with a clock of its own and an API that fails."""

    swarm: SupervisedSwarm
    disk: Path
    server: RemoteServer
    clock: Clock
    say: Callable[[str], None]
    faults: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    jumped: list[tuple[float, float]] = field(default_factory=list)
    """When the clock was wrong."""

    def run(self) -> None:
        """Let everything fail once."""
        failures: dict[str, Callable[[], None]] = {
            "full disk": self._full_disk,
            "no inodes": self._no_inodes,
            "API down": lambda: self._api(Fault.UNAVAILABLE),
            "API closes connections": lambda: self._api(Fault.CLOSE),
            "429 storm": lambda: self._api(Fault.RATE_LIMIT_BARE),
            "trainer stopped": self._stopped,
        }
        failures |= {"clock 3 h forward": lambda: self._clock(3 * 3600), "clock 1 d back": lambda: self._clock(-86400)}
        if self.swarm.group is not None:
            failures["memory limit"] = self._memory
        for name, fail in failures.items():
            begun = time.monotonic()
            before = len(self.swarm.founder.events("warning"))
            try:
                fail()
                rounds = self._rounds()
                self._await(lambda rounds=rounds: self._rounds() > rounds + 3, "no more rounds")  # type: ignore[misc]
            except AssertionError as error:
                self.faults.append(f"{name}: {error}")
                if self.swarm.founder.life is None or self.swarm.founder.life.ended:
                    return
            told = [event["message"] for event in self.swarm.founder.events("warning")[before:]]
            self.results.append(f"{name}: {time.monotonic() - begun:.0f} s" + "".join(f"\n    {each}" for each in told))
            self.say(self.results[-1])

    def finish(self) -> None:
        """Stop the node, and compare its files with each other and with the server's books."""
        node = self.swarm.founder
        self.swarm.stop(node, PATIENCE_S)
        node.deaths += len(node.events("start"))  # rounds that ended with their trainer were never told of
        books = self.server.settled()
        self.faults += evidence.faults(node, self.swarm.invitation.charter, ahead=3)
        self.faults += money_faults(node.files, books, self.jumped)
        held = accounts(node.files.ledger)
        bill = books.usd(PRICE_IN, PRICE_OUT)
        self.results.append(
            f"accounts: bill {bill:.6f} USD, settled {held.get('settled', 0.0):.6f}, kept for lost answers "
            f"{sum(held.values()) - held.get('settled', 0.0):.6f}"
        )
        if left := self.swarm.left_processes():
            self.faults.append(f"left running: {[process.cmdline() for process in left]}")

    def _rounds(self) -> int:
        return self.swarm.founder.rounds()

    def _state(self) -> str:
        return str(state_of(self.swarm.founder.files)["state"])

    def _trainer(self) -> psutil.Process:
        found: list[psutil.Process] = []

        def look() -> bool:
            found.extend(filter(None, [find(self.swarm.founder, Victim.TRAINER)]))
            return bool(found)

        self._await(look, "no trainer")
        return found[-1]

    def _await(self, holds: Callable[[], object], fault: str) -> None:
        life = self.swarm.founder.life
        assert life is not None
        until(lambda: holds() or life.ended, PATIENCE_S, self.swarm.watch)
        if not holds():
            raise AssertionError(f"{fault} (state {self._state()}): {output(self.swarm.founder)[-2000:]}")

    def _full_disk(self) -> None:
        ballast = self.disk / "ballast"
        with ballast.open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
                file.flush()
        try:
            self._await(lambda: self._state() == "paused", "not paused")
            time.sleep(3)
        finally:
            ballast.unlink()

    def _no_inodes(self) -> None:
        place = self.disk / "many"
        place.mkdir()
        try:
            with contextlib.suppress(OSError):
                for number in range(10**6):
                    (place / str(number)).touch()
            self._await(lambda: self._state() == "paused", "not paused")
            time.sleep(3)
        finally:
            for path in place.iterdir():
                path.unlink()
            place.rmdir()

    def _api(self, fault: Fault) -> None:
        self.server.always(fault)
        self._await(lambda: self._state() == "waiting", "not waiting")
        time.sleep(10)
        self.server.always(None)

    def _stopped(self) -> None:
        self._trainer().send_signal(signal.SIGSTOP)
        self._await(lambda: self._state() == "paused", "not paused")

    def _memory(self) -> None:
        group = self.swarm.group
        assert group is not None
        trainer = self._trainer()
        group.limit(group.used() + (128 << 20))
        balloon = subprocess.Popen([*group.prefix, sys.executable, "-c", _BALLOON])
        try:
            self._await(lambda: not trainer.is_running() or trainer.status() == "zombie", "not killed")
        finally:
            balloon.kill()
            balloon.wait()
            group.limit(None)

    def _clock(self, seconds: int) -> None:
        def told() -> int:
            return sum(event["code"] == "clock" for event in self.swarm.founder.events("note"))

        before, restarts, begun = told(), self._restarts(), time.time()
        self.clock.set(seconds)
        self._await(lambda: told() > before, "the clock was not noticed")
        rounds = self._rounds()
        self._await(lambda: self._rounds() > rounds + 2, "no rounds after the jump")
        self.clock.set(0)
        self._await(lambda: told() > before + 1, "the clock was not noticed when it was set back")
        self.jumped.append((begun - 5, time.time() + 5))
        if self._restarts() != restarts:
            raise AssertionError("the trainer was restarted")

    def _restarts(self) -> int:
        return sum(event["code"] == "restart" for event in self.swarm.founder.events("warning"))


@contextlib.contextmanager
def failing_node(root: Path, server: RemoteServer, say: Callable[[str], None]) -> Iterator[FailingNode]:
    """Yield a node that plays, on a disk of its own. Raises OSError if this process may not mount one."""
    disk = root / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        raise OSError(errno.EPERM, "mounting a small file system needs root")
    group = ControlGroup.create(f"swarmctl-soak-{os.getpid()}")
    clock = Clock(root / "clock")
    try:
        swarm = SupervisedSwarm(disk, ["ada"], settings=OFFLOADED.replace("BASE_URL", server.base_url) + SUPERVISION)
        swarm.group = group
        with swarm:
            swarm.found()
            swarm.variables["ada"] = clock.variables
            swarm.start(swarm.founder)
            if not until(lambda: swarm.founder.rounds() > 3, PATIENCE_S, swarm.watch):
                raise AssertionError(f"the node does not start: {output(swarm.founder)}")
            if group is None:
                say("this machine allows no control group, so the kernel kills nothing for memory")
            yield FailingNode(swarm, disk, server, clock, say)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
        if group is not None:
            until(lambda: not (group.path / "cgroup.procs").read_text(), 10)
            group.remove()
