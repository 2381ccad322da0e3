"""The sandbox that a worker enters before it reads anything from outside.

Defense in depth around verifiers that are written to be harmless: whatever an answer makes them do, they have no
network, cannot write files, start processes, or read this user's files or the memory of other processes, and have
little memory. On Linux the kernel enforces it (``kernel``). An audit hook refuses the same in Python; alone, as on
macOS, it stops accidents, but not code written to get around it.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from hivemind_exp.processes.kernel import confine, end_with_parent, hide_memory
from hivemind_exp.processes.leftovers import mapped_bytes, threads_left

MEMORY = 2 * 2**30
"""Address space of a worker, in bytes (Linux; macOS does not enforce it). Beyond what it has already loaded, if that
was loaded from the hub."""
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
"""What the loader needs for modules that are imported later."""
_PACKAGE = str(Path(__file__).parents[1])

_REFUSED = (
    "socket.", "subprocess.", "ctypes.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn",
    "os.startfile", "pty.", "os.kill", "signal.pthread_kill", "os.remove", "os.rename", "os.rmdir", "os.mkdir",
    "os.chmod", "os.chown", "os.chflags", "os.link", "os.symlink", "os.truncate", "os.utime", "os.setxattr",
    "os.removexattr", "os.putenv", "os.unsetenv", "os.lockf", "shutil.", "tempfile.", "fcntl.", "mmap.",
    "sqlite3.", "webbrowser.", "urllib.", "http.", "ftplib.", "smtplib.", "imaplib.", "poplib.", "nntplib.",
    "telnetlib.", "cpython.run_", "pickle.",
)  # fmt: skip
_READING = ("open", "os.listdir", "os.scandir")


def die_with_parent(parent: int) -> None:
    """Kill this process when its parent dies (Linux), and ignore the terminal's signals, which the node handles."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(name, signal.SIG_IGN)
    end_with_parent(signal.SIGKILL)
    if sys.platform == "linux" and os.getppid() != parent:  # the parent died before the call
        os._exit(1)


def allow_seconds(limit: float) -> None:
    """End this process with SIGPROF after ``limit`` seconds of CPU time from now. 0: no limit."""
    signal.setitimer(signal.ITIMER_PROF, limit)


class Sandbox:
    """Gives up the rights that this process does not need, in two steps that cannot be undone."""

    def __init__(self) -> None:
        self._nothing = os.open(os.devnull, os.O_RDWR)  # opened now, because ``close`` refuses it
        self._readable: list[str] = []

    def close(self, readable: Iterable[str] = (), *, limited: bool = True, loaded: bool = False) -> list[str]:
        """Give up the network, processes, and all files except Python's code and ``readable``, which become read-only.

        ``limited``: limit the memory to ``MEMORY``, too. ``loaded``: to that much beyond what is in use now.

        Returns:
            What the kernel does not enforce, with the reason; empty if it enforces everything.
        """
        os.chdir("/")
        self._readable = [os.path.realpath(path) for path in readable]
        hide_memory()
        if sys.platform == "linux" and limited:
            _limit("RLIMIT_AS", MEMORY + (mapped_bytes() if loaded else 0))
        _limit("RLIMIT_NPROC", 0)
        _limit("RLIMIT_NOFILE", 64)
        still_open = confine(map(Path, [*_roots(), *_LIBRARIES, *self._readable]))
        if threads := threads_left():
            still_open.append(f"Landlock does not apply to threads that code has started before ({threads})")
        return still_open

    def finish(self) -> None:
        """Once everything is loaded, give up all output except messages, and everything that the audit hook refuses."""
        for output in (1, 2):  # so that ``print`` does not fail
            os.dup2(self._nothing, output)
        for name in list(os.environ):
            del os.environ[name]
        _limit("RLIMIT_FSIZE", 0)
        _refuse_in_python(self._readable)


def _roots() -> list[str]:
    """Return the directories with Python code. This package may be outside of the search path."""
    return [os.path.realpath(root) for root in {*sys.path, sys.prefix, sys.base_prefix, _PACKAGE} if root]


def _limit(name: str, value: int) -> None:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        resource.setrlimit(getattr(resource, name), (value, value))


def _refuse_in_python(readable: Iterable[str]) -> None:
    """Permanently refuse operations with an audit hook. Reading stays possible in ``readable`` and of Python code."""
    roots = tuple(os.path.join(root, "") for root in [*_roots(), *readable])
    own = os.getpid()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if os.getpid() != own or event.startswith(_REFUSED):
            raise PermissionError(f"operation not allowed in a worker: {event}")
        if event in _READING:
            path = arguments[0]
            if event == "open" and _writes(arguments):
                raise PermissionError("workers may not write files")
            if isinstance(path, (str, bytes)) and not os.path.join(os.path.realpath(os.fsdecode(path)), "").startswith(
                roots
            ):
                raise PermissionError("workers may not read this file")

    sys.addaudithook(hook)


def _writes(arguments: tuple[object, ...]) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str) and any(letter in mode for letter in "wax+"):
        return True
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND))


Role = Literal["make", "verify"]
"""A worker's role: generate questions or verify answers. No worker does both, because verifiers read untrusted text."""
