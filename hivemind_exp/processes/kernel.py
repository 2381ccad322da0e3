"""What the Linux kernel enforces for a process: Landlock, a seccomp filter, and memory that other processes can't read.

Called with ctypes: the ``landlock`` package is an alpha version, and ``pyseccomp`` needs a system library.
"""

import ctypes
import json
import os
import platform
import struct
import sys
from collections.abc import Iterable
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""Landlock version -> number of file access rights that it supports (linux/landlock.h)."""
_NET_VERSION, _SCOPE_VERSION = 4, 6

_SECCOMP = {"x86_64": 317, "aarch64": 277}
_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050001, 0x80000000

_CAPGET = {"x86_64": 125, "aarch64": 90}
"""capset has the next number."""
_CAPABILITIES = 0x20080522
_READ_ALL = 0b110
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: root may need them to read Python's code. Landlock limits them."""
_ALL_OF_FILES = 0b11111
"""The same, CAP_CHOWN, CAP_FOWNER and CAP_FSETID: what root may need to write its own files."""

_EVERYWHERE = (424, 425, 426, 427, 434, 435, 438, 440, 448, 452)
"""pidfd_send_signal, io_uring_*, pidfd_open, clone3, pidfd_getfd, process_madvise, process_mrelease, fchmodat2."""
_REFUSED = {
    "x86_64": (
        *(41, 42, 43, 44, 49, 50, 53, 288),  # socket, connect, accept, sendto, bind, listen, socketpair, accept4
        *(56, 57, 58, 59, 322),  # clone, fork, vfork, execve, execveat
        *(62, 200, 234, 129, 297),  # kill, tkill, tgkill, rt_sigqueueinfo, rt_tgsigqueueinfo
        *(101, 310, 311, 312, 298, 321, 323),  # ptrace, process_vm_*, kcmp, perf_event_open, bpf, userfaultfd
        *(155, 161, 165, 166, 272, 308),  # pivot_root, chroot, mount, umount2, unshare, setns
        *(175, 176, 246, 313, 248, 249, 250),  # kernel modules, kexec_load, keys
        *(303, 304, 319, 29, 30, 31, 64, 68, 240),  # file handles, memfd_create, System V and POSIX queues
        *(90, 91, 92, 93, 94, 260, 268, 132, 235, 261, 280),  # chmod, chown and utime in all forms
        *(188, 189, 190, 197, 198, 199, 135, 141, 203, 294, 300),  # xattr, personality, priority, inotify, fanotify
        *(109, 142, 144, 314, 251, 256, 279),  # setpgid, sched_set*, ioprio_set, migrate_pages, move_pages
    ),
    "aarch64": (
        *(198, 199, 200, 201, 202, 203, 206, 242),
        *(220, 221, 281),
        *(129, 130, 131, 138, 240),
        *(117, 270, 271, 272, 241, 280, 282),
        *(39, 40, 41, 51, 97, 268),
        *(104, 105, 106, 273, 217, 218, 219),
        *(264, 265, 279, 194, 195, 196, 190, 186, 180),
        *(52, 53, 54, 55, 88),
        *(5, 6, 7, 14, 15, 16, 92, 140, 122, 26, 262),
        *(154, 118, 119, 274, 30, 238, 239),
    ),
}
"""System calls that a worker does not need, by machine: network, processes, signals, memory of others, metadata."""
_FCNTL_SIGNALS = (8, 10, 15)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX: who gets a signal when data arrives, and which."""
_ARGUMENTS = {
    "x86_64": ((302, 0, (0,), _ALLOW), (72, 1, _FCNTL_SIGNALS, _REFUSE)),
    "aarch64": ((261, 0, (0,), _ALLOW), (25, 1, _FCNTL_SIGNALS, _REFUSE)),
}
"""System calls that depend on an argument: its position, and what happens with these values; otherwise the opposite.

prlimit64 may only change this process's limits: a low CPU limit would kill another process.
"""


def hide_memory() -> None:
    """Keep other processes of this user from reading this one's memory and environment, and prevent core dumps.

    Every process that holds keys calls this. After that, only root can read it or attach debuggers and profilers.
    """
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        _prctl(_PR_SET_DUMPABLE, 0)


def leave_others_alone() -> None:
    """Give up root's rights except for files, so that hidden memory cannot be read even by root's programs (Linux).

    For code that must load before ``confine``. Other users have no such rights.
    """
    if sys.platform == "linux":
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _drop_capabilities(_ALL_OF_FILES)


def end_with_parent(signal: int) -> None:
    """Have the kernel send ``signal`` to this process when its parent's thread ends (Linux)."""
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal)


def confine(readable: Iterable[Path]) -> list[str]:
    """Give up the network, other processes, and all files except those in ``readable``, which become read-only.

    Returns:
        What the kernel does not enforce, with the reason; empty if it enforces everything.
    """
    if sys.platform != "linux":
        return [f"{platform.system()} has neither Landlock nor seccomp"]
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    return [*_landlock(readable), *_drop_capabilities(_READ_ALL), *_seccomp()]


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _call(number: int, *arguments: object) -> int:
    """Make a system call. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def _landlock(readable: Iterable[Path]) -> list[str]:
    """Restrict this thread's access to files, TCP ports, signals and abstract sockets."""
    try:
        version = _call(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
        rights = max(count for known, count in _FILE_RIGHTS.items() if known <= version)
        fields = [(1 << rights) - 1]
        fields += [0b11] if version >= _NET_VERSION else []
        fields += [0b11] if version >= _SCOPE_VERSION else []
        rules = struct.pack(f"={len(fields)}Q", *fields)
        ruleset = _call(_LANDLOCK_CREATE, rules, ctypes.c_size_t(len(rules)), ctypes.c_uint32(0))
        try:
            for path in readable:
                _allow_reading(ruleset, path)
            _call(_LANDLOCK_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint32(0))
        finally:
            os.close(ruleset)
    except OSError as error:
        return [f"no Landlock, so this user's files can be read ({error.strerror})"]
    return []


def _allow_reading(ruleset: int, path: Path) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # a directory in the module search path that does not exist
    try:
        rights = _READ_FILE | (_READ_DIR if path.is_dir() else 0)
        rule = struct.pack("=Qi", rights, place)
        _call(_LANDLOCK_ADD, ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint32(0))
    finally:
        os.close(place)


def _drop_capabilities(kept: int) -> list[str]:
    """Give up root's rights, except for those in ``kept``."""
    number = _CAPGET.get(platform.machine())
    if number is None:
        return []  # reported by ``_seccomp``
    header, sets = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITIES, 0)), ctypes.create_string_buffer(24)
    try:
        _call(number, header, sets)
        low = [value & kept for value in struct.unpack("=6I", sets)[:3]]  # effective, permitted, inheritable
        _call(number + 1, header, ctypes.create_string_buffer(struct.pack("=6I", *low, 0, 0, 0)))
    except OSError as error:
        return [f"root's rights remain ({error.strerror})"]
    return []


def _argument_steps(
    number: int, argument: int, values: tuple[int, ...], verdict: int
) -> list[tuple[int, int, int, int]]:
    """Return the filter's steps for a system call that depends on an argument. Other calls jump over them."""
    steps = [(_EQUAL, 0, len(values) + 3, number), (_LOAD, 0, 0, 16 + 8 * argument)]
    steps += [(_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
    return [*steps, (_RETURN, 0, 0, _ALLOW + _REFUSE - verdict), (_RETURN, 0, 0, verdict)]


def _seccomp() -> list[str]:
    """Refuse system calls with EPERM, in all threads of this process."""
    machine = platform.machine()
    if machine not in _REFUSED:
        return [f"no seccomp filter for {machine}, so the network can be reached"]
    numbers = sorted({*_REFUSED[machine], *_EVERYWHERE})
    steps = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _ARCHITECTURE[machine]), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    steps += [step for rule in _ARGUMENTS[machine] for step in _argument_steps(*rule)]
    steps.append((_AT_LEAST, len(numbers) + 1, 0, _X32))
    steps += [(_EQUAL, len(numbers) - place, 0, number) for place, number in enumerate(numbers)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    try:
        if thread := _call(_SECCOMP[machine], ctypes.c_uint(1), ctypes.c_uint(1), program):
            return [f"no seccomp filter, so the network can be reached (thread {thread} has a filter of its own)"]
    except OSError as error:
        return [f"no seccomp filter, so the network can be reached ({error.strerror})"]
    return []


if __name__ == "__main__":  # for ``doctor``: it cannot be undone, so it needs a process of its own
    print(json.dumps(confine([])))
