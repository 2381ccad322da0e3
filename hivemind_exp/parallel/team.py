"""The other processes that train a node with its main process: start them, ask them, notice their end, end them.

Commands and answers go through pipes; only sums of tensors go through the ``ProcessGroup``. So between commands, the
other processes wait for a pipe, and none of them keeps any state that the main process does not have.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hivemind_exp.config import Config
from hivemind_exp.errors import NodeError, ProcessEnded, from_code
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.processes.ending import how_ended
from hivemind_exp.processes.messages import Decoder, WireError, encode, search_path
from hivemind_exp.secrets import without_secrets
from hivemind_exp.stop import StopFlag, StopRequested

if TYPE_CHECKING:
    from hivemind_exp.parallel.group import ProcessGroup

MODULE = "hivemind_exp.runner.member"
UPDATE = "update"
"""The command to take a step. The main process continues meanwhile."""
_CHUNK = 2**16
_POLL_S = 0.05
_END_S = 1.0
"""Seconds for a process whose pipe has closed to exit."""
_LOOK_S = 0.1
"""Seconds between two looks whether all processes live, while tensors are added up."""


class Team:
    """The other processes of a node. Used by the main process's main thread only, because they die with it."""

    def __init__(
        self,
        config: Config,
        files: NodeFiles,
        stop: StopFlag,
        *,
        device: str,
        dtype: str,
        visible: Sequence[str] = (),
    ) -> None:
        """Start the processes. ``device``, ``dtype``: as for every process.

        ``visible``: the GPU that each process sees, the main process's first (``CUDA_VISIBLE_DEVICES``). Empty: a CPU.
        """
        self.processes = config.train.processes
        self._node, self._stop, self._device = config.node.name, stop, device
        self._meeting = Path(tempfile.mkdtemp(prefix="swarmctl-"))
        self._group: ProcessGroup | None = None
        self._asked: str | None = None
        """The command that has not been answered yet."""
        self._looked = 0.0
        first = {
            "config": config.model_copy(
                update={"report": config.report.model_copy(update={"to": []})},
            ).model_dump(mode="json"),
            "node_dir": str(files.root),
            "device": device,
            "dtype": dtype,
            "meeting": str(self._meeting / "meeting"),
        }
        self._members: list[_Member] = []
        for place in range(1, self.processes):
            name = f"{'GPU process' if visible else 'process'} {place + 1} of {self.processes}"
            member = _Member(name, visible[place] if visible else None)
            self._members.append(member)
            member.queue(first | {"place": place})
            member.write()  # so that it imports its libraries meanwhile

    @property
    def pids(self) -> list[int]:
        """The ids of the other processes."""
        return [member.pid for member in self._members]

    def join(self) -> ProcessGroup:
        """Form the group for sums, once all have loaded the model. They answer when they are ready to train."""
        from hivemind_exp.parallel.group import ProcessGroup  # imports torch

        self.ask("join", None)
        self._group = ProcessGroup(self._meeting / "meeting", 0, self.processes, self._device)
        return self._group

    def ask(self, command: str, argument: object) -> None:
        """Send a command to every process, once all have answered the ones before."""
        if self._asked is not None:
            self.answers()
        for member in self._members:
            member.queue([command, argument])
        while any(member.unsent for member in self._members):
            self._wait()
        self._asked = command

    def answers(self) -> list[Any]:
        """Return every process's answer to the latest command, in order.

        Raises ``StopRequested`` on a stop, ``ProcessEnded`` if a process ended, and the ``NodeError`` that it reports.
        """
        while not all(member.answers for member in self._members):
            self._wait()
        self._asked = None
        found = [member.answers.popleft() for member in self._members]
        for answer in found:
            if "error" in answer:
                raise _reported(answer)
        return [answer["value"] for answer in found]

    def check(self) -> None:
        """Raise ``StopRequested`` if a stop was requested, and ``ProcessEnded`` if a process has ended.

        Shows no life: a main process that waits for one that hangs must count as hanging.
        """
        if self._stop.requested():
            raise StopRequested
        now = time.monotonic()
        if now - self._looked >= _LOOK_S:
            self._looked = now
            for member in self._members:
                if member.has_ended():
                    raise self._ended(member)

    def has_lost_one(self) -> bool:
        """Return whether a process has ended. Any thread may call this."""
        return any(member.has_ended() for member in self._members)

    def close(self) -> None:
        """End all processes. None of them has anything to save."""
        together = False
        # One that still computes a share would have to be waited for. Taking a step is done by now.
        idle = self._asked in (None, UPDATE) and not any(each.has_ended() for each in self._members)
        if idle and self._group is not None:
            with contextlib.suppress(NodeError, StopRequested, OSError):
                self.ask("leave", None)
                together = True
        for member in self._members if not together else ():
            member.kill()
        if self._group is not None:
            self._group.leave(together=together)
            self._group = None
        for member in self._members:
            member.kill()
        shutil.rmtree(self._meeting, ignore_errors=True)

    def _wait(self) -> None:
        """Write and read what is possible now, or wait for a moment."""
        if self._stop.requested():
            raise StopRequested
        unsent = [member.input for member in self._members if member.unsent]
        readable, writable, _ = select.select([member.output for member in self._members], unsent, [], _POLL_S)
        for member in self._members:
            if member.input in writable:
                member.write()
            if member.output in readable and not member.read():
                raise self._ended(member)

    def _ended(self, member: _Member) -> NodeError:
        """Return the error that a process reported last, or one about how it ended."""
        while member.read():
            pass
        for answer in member.answers:
            if "error" in answer:
                return _reported(answer)
        return ProcessEnded(f"{member.name} {member.end()}", next=f"swarmctl logs {self._node} --raw")


def _reported(answer: dict[str, Any]) -> NodeError:
    error = answer["error"]
    return from_code(error["code"], error["message"], error["next"])


def spawn(environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a process with its two pipes."""
    return subprocess.Popen(
        [sys.executable, "-P", "-X", "faulthandler", "-m", MODULE, str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )


class _Member:
    """One other process, with a non-blocking pipe in each direction."""

    def __init__(self, name: str, visible: str | None) -> None:
        self.name = name
        self._flag = "train.processes" if visible is None else "--gpus"
        self.answers: deque[dict[str, Any]] = deque()
        self.unsent = bytearray()
        self._decoder = Decoder()
        # What the main process needs from the hub is in the cache by now; so these processes need no token.
        more = {"HF_HUB_OFFLINE": "1"} | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
        self._process = spawn(without_secrets(os.environ) | search_path() | more)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.pid = self._process.pid
        self.input, self.output = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self.input, False)

    def queue(self, message: object) -> None:
        self.unsent += encode(message)

    def write(self) -> None:
        try:
            del self.unsent[: os.write(self.input, self.unsent[:_CHUNK])]
        except (BlockingIOError, BrokenPipeError):
            return  # an ended process is noticed when its answers are read

    def read(self) -> bool:
        """Take what has arrived. Return whether the pipe is still open."""
        data = os.read(self.output, _CHUNK)
        try:
            self.answers += self._decoder.feed(data)
        except WireError:
            return False
        return bool(data)

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> str:
        """Wait until the process exits; return how it did."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        self._process.kill()  # it may have closed its pipe without exiting
        return how_ended(self._process.wait(), helps=f"fewer processes need less: {self._flag}")

    def kill(self) -> None:
        """Kill the process, reap it and close its pipes."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
