"""A hidden directory in which something is made before it gets its name, so that it appears whole or not at all."""

import contextlib
import fcntl
import glob
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

_MARK = ".swarmctl-"
"""Part of every such directory's name, so that no other hidden directory is taken for one."""
_LEFT_S = 3600.0
"""Age in seconds from which an empty directory without a mark belongs to a program that was killed."""
_ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Yield a new directory beside ``target``, which is deleted at the end of the block with what is left in it.

    Also if SIGTERM or SIGHUP ends the program, which then exits with the usual code. Directories that killed programs
    have left there are deleted, too. Raises OSError.
    """
    _delete_stale(target.parent)
    _delete_empty(target)
    with _ending_by_exception(), _locked_directory(target) as directory:
        try:
            yield directory
            if directory.exists():  # it was not renamed
                shutil.rmtree(directory)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise


def discard(directory: Path) -> None:
    """Delete a directory, which vanishes at once, also if SIGTERM or SIGHUP ends the program meanwhile.

    What a killed program has left is deleted the next time. No new directory is made, because the disk may have no
    inode left. Raises OSError.
    """
    _delete_stale(directory.parent)
    aside = directory.with_name(f".{directory.name}{_MARK}{secrets.token_hex(4)}")
    lock = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _try_lock(lock)
        with _ending_by_exception():
            try:
                os.rename(directory, aside)
                shutil.rmtree(aside)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
    finally:
        os.close(lock)


@contextmanager
def _locked_directory(target: Path) -> Iterator[Path]:
    """Create a directory and lock it during the block."""
    made = tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.")  # mode 0700
    lock = os.open(made, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _try_lock(lock)
        # Only now, because another program may delete directories that are marked and not locked.
        directory = Path(made).with_name(f".{target.name}{_MARK}{made[-8:]}")
        os.rename(made, directory)
        yield directory
    finally:
        os.close(lock)


def _delete_empty(target: Path) -> None:
    """Delete the directories of programs that were killed before they marked theirs. Others may just be making one."""
    for directory in target.parent.glob(f".{glob.escape(target.name)}.{'?' * 8}"):
        with contextlib.suppress(OSError):
            if time.time() - directory.stat().st_mtime > _LEFT_S:
                directory.rmdir()


def _delete_stale(parent: Path) -> None:
    """Delete the directories of programs that no longer exist: those hold no lock any more."""
    for directory in parent.glob(f".*{_MARK}*"):
        with contextlib.suppress(OSError):
            lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if _try_lock(lock):
                    shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(lock)


def _try_lock(directory: int) -> bool:
    """Lock a directory; return whether that worked. It does not where the file system has no locks."""
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def _ending_by_exception() -> Iterator[None]:
    """Let signals that would end the program at once raise SystemExit during the block, once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _ENDING}
    taken = [number for number in _ENDING if before[number] is signal.SIG_DFL]

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        for each in taken:
            signal.signal(each, signal.SIG_IGN)  # the directory is being deleted
        raise SystemExit(128 + number)

    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


def is_staged(path: Path) -> bool:
    """Return whether a path is in a directory that ``staged`` fills, and that does not outlive a failure."""
    return any(part.startswith(".") and _MARK in part for part in path.parts)
