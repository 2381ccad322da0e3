"""The sandbox that a worker enters once it has loaded what it needs.

Defense in depth around verifiers that are written to be harmless: whatever an answer makes them do, they have no
network, cannot write files, start processes or read secrets, and have little memory.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from typing import Literal

MEMORY = 2 * 2**30
"""Address space of a verifier, in bytes (Linux; macOS does not enforce it)."""

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000

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
    if sys.platform == "linux":
        _libc_prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before the call
            os._exit(1)


def allow_seconds(limit: float) -> None:
    """End this process with SIGPROF after ``limit`` seconds of CPU time from now. 0: no limit."""
    signal.setitimer(signal.ITIMER_PROF, limit)


def close(role: Role) -> None:
    """Irrevocably give up network, files and processes; a verifier also gets a memory limit."""
    os.chdir("/")
    with open(os.devnull, "r+b") as nothing:  # so that a print does not fail with a refused write
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    for name in list(os.environ):
        del os.environ[name]
    _limit("RLIMIT_CORE", 0)
    _limit("RLIMIT_FSIZE", 0)
    if sys.platform == "linux":
        _leave_network()
        _libc_prctl(_PR_SET_NO_NEW_PRIVS, 1)
        if role == "verify":  # in the role "make", a library's thread stacks may need more, and no text is untrusted
            _limit("RLIMIT_AS", MEMORY)
    _limit("RLIMIT_NPROC", 0)
    _limit("RLIMIT_NOFILE", 64)
    _refuse_by_audit()


def _limit(name: str, value: int) -> None:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        resource.setrlimit(getattr(resource, name), (value, value))


def _libc_prctl(option: int, value: int) -> None:
    import ctypes

    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _leave_network() -> None:
    """Move into an empty network namespace, if the kernel lets an ordinary user do so."""
    import ctypes

    libc = ctypes.CDLL(None)
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        libc.unshare(_CLONE_NEWNET)


def _refuse_by_audit() -> None:
    """Permanently refuse operations with an audit hook. Reading stays possible in the directories with Python code."""
    roots = tuple(os.path.join(os.path.realpath(root), "") for root in {*sys.path, sys.prefix, sys.base_prefix} if root)
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
