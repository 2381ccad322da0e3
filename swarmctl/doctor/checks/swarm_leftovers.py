"""What dead nodes and daemons left behind: sockets nobody listens on, directories that were never finished."""

import contextlib
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterable
from pathlib import Path

from hivemind_exp.node_files import NodeFiles
from hivemind_exp.trainer.checkpoints import PARTIAL
from swarmctl.doctor.check import Context, Finding, ok, warning
from swarmctl.doctor.checks.swarm import nodes
from swarmctl.paths import shown
from swarmctl.storage import node_lock as locks

SETTLED = 60.0
"""Seconds after which what is half made is not being made any more."""
_TEMPORARY = (".node.json.*", ".config.json.*", ".identity.key.*", ".partial-*")


def leftovers(context: Context) -> Finding:
    """Look for files of this user that nothing will ever use again."""
    sockets = dead_sockets(context.sockets)
    halves = half_made(context.nodes)
    temporary = [path for files in nodes(context) if not locks.is_held(files.lock) for path in unfinished(files)]
    found = [*sockets, *halves, *temporary]
    if not found:
        return ok("none")
    kinds = (
        (sockets, "sockets of dead daemons"),
        (halves, "node directories that were never finished"),
        (temporary, "files and checkpoints that were never finished"),
    )
    text = ", ".join(f"{len(paths)} {kind}" for paths, kind in kinds if paths)
    again = context.again("swarm", "--fix")
    return warning(f"{text}, such as {shown(found[0])}", again, lambda: _remove(context))


def dead_sockets(directory: Path) -> list[Path]:
    """Return the sockets of hivemind's daemons, owned by this user, on which nobody listens."""
    return [path for path in sorted(directory.glob("hivemind-*.sock")) if _settled(path) and _is_dead(path)]


def _is_dead(path: Path) -> bool:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return False
        with socket.socket(socket.AF_UNIX) as caller:
            caller.settimeout(0.5)
            caller.connect(str(path))
    except ConnectionRefusedError:
        return True
    except OSError:
        return False  # gone meanwhile, or busy: not ours to judge
    return False


def half_made(directory: Path) -> list[Path]:
    """Return the directories in which a node was being made when its maker died."""
    return [path for path in sorted(directory.glob(".*.*")) if _is_staging(path) and _settled(path)]


def _is_staging(path: Path) -> bool:
    """Whether it is what ``nodes`` makes first: a directory with at most a ``node.json``, or half of one."""
    try:
        return all(re.fullmatch(r"(\.)?node\.json(\..*)?", child.name) for child in path.iterdir())
    except OSError:  # not a directory, or gone meanwhile
        return False


def unfinished(files: NodeFiles) -> list[Path]:
    """Return what a node was writing when it died; meaningless while it runs."""
    places = [files.root.glob(pattern) for pattern in _TEMPORARY]
    places += [directory.glob(f"{PARTIAL}*") for directory in (files.checkpoints, files.hub)]
    return [path for place in places for path in place if _settled(path)]


def _settled(path: Path) -> bool:
    """Whether it belongs to this user and has not changed for a while."""
    try:
        status = path.lstat()
    except OSError:
        return False
    return status.st_uid == os.geteuid() and time.time() - status.st_mtime > SETTLED


def _remove(context: Context) -> str:
    """Look again, as a node may have started since, and remove; a node's files only while its lock is held here."""
    removed = [*_delete(dead_sockets(context.sockets)), *_delete(half_made(context.nodes))]
    for files in nodes(context):
        with contextlib.suppress(OSError), open(files.lock, "ab", opener=_private) as lock:
            if locks.acquire(lock.fileno()):
                removed += _delete(unfinished(files))
    return f"removed {', '.join(map(shown, removed))}" if removed else "nothing was left to remove"


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _delete(paths: Iterable[Path]) -> list[Path]:
    done = []
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        done.append(path)
    return done
