"""What lies in the directories of this machine's nodes: modes that keep secrets, checkpoints, what dead nodes left."""

import os
import re
import shlex
import shutil
import socket
import stat
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from hivemind_exp.node_files import NodeFiles
from swarmctl.doctor.check import Context, Finding, bytes_in, failed, ok, quoted, warning
from swarmctl.paths import shown
from swarmctl.storage import node_lock as locks
from swarmctl.terminal.sentences import size

QUICK = 256 * 2**20
"""Bytes in all whose digests are computed without --deep; more would take seconds."""
_OTHERS = 0o077
_SETTLED_S = 60.0
"""After this, what is half made is not being made any more."""
_TEMPORARY = (".node.json.*", ".config.json.*", ".identity.key.*", ".partial-*")


def nodes(context: Context) -> list[NodeFiles]:
    """Return the files of every node of this machine."""
    return [NodeFiles(path.parent) for path in sorted(context.nodes.glob("[!.]*/node.json"))]


def modes(context: Context) -> Finding:
    """Look for secrets and node directories that others on this machine can read."""
    own = nodes(context)
    secret = [path for files in own for path in (files.root / "secret", files.key) if path.is_file() and _is_open(path)]
    bad = [*secret, *(path for path in (context.nodes, *(files.root for files in own)) if _is_open(path))]
    if not bad:
        return ok("node directories and secrets are for their owner alone")
    named = ", ".join(f"{shown(path)} ({stat.S_IMODE(path.stat().st_mode):04o})" for path in bad[:3])
    text = f"others can read {named}" + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
    # An open directory tells what a node does; an open secret lets others foresee its held-out questions, and an open
    # key lets them be this node.
    verdict = failed if secret else warning
    return verdict(text, f"chmod go-rwx {quoted(bad)}", lambda: _close(bad))


def _is_open(path: Path) -> bool:
    with suppress(OSError):
        status = path.stat()
        return bool(status.st_mode & _OTHERS) and status.st_uid == os.geteuid()
    return False


def _close(paths: list[Path]) -> str:
    for path in paths:
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~_OTHERS)
    return f"closed {', '.join(map(shown, paths))} to others"


def leftovers(context: Context) -> Finding:
    """Look for files of this user that nothing will ever use again."""
    unfinished = [path for files in nodes(context) if not locks.is_held(files.lock) for path in _unfinished(files)]
    kinds = (
        (_dead_sockets(context.sockets), "sockets of dead daemons"),
        (_half_made(context.nodes), "node directories that were never finished"),
        (unfinished, "files and checkpoints that were never finished"),
    )
    found = [path for paths, _ in kinds for path in paths]
    if not found:
        return ok("none")
    text = ", ".join(f"{len(paths)} {kind}" for paths, kind in kinds if paths)
    again = context.again("swarm", "--fix")
    return warning(f"{text}, such as {shown(found[0])}", again, lambda: _remove(context))


def _dead_sockets(directory: Path) -> list[Path]:
    """Return the sockets of hivemind's daemons, owned by this user, on which nobody listens."""
    return [path for path in sorted(directory.glob("hivemind-*.sock")) if _settled(path) and _is_dead(path)]


def _is_dead(path: Path) -> bool:
    try:
        if stat.S_ISSOCK(path.lstat().st_mode):
            with socket.socket(socket.AF_UNIX) as caller:
                caller.settimeout(0.5)
                caller.connect(str(path))
    except ConnectionRefusedError:
        return True
    except OSError:
        return False  # gone meanwhile, or busy: not ours to judge
    return False


def _half_made(directory: Path) -> list[Path]:
    """Return the directories in which a node was being made when its maker died."""
    return [path for path in sorted(directory.glob(".*.*")) if _is_staging(path) and _settled(path)]


def _is_staging(path: Path) -> bool:
    """Whether it is what ``nodes`` makes first: a directory with at most a ``node.json``, or half of one."""
    try:
        return all(re.fullmatch(r"(\.)?node\.json(\..*)?", child.name) for child in path.iterdir())
    except OSError:  # not a directory, or gone meanwhile
        return False


def _unfinished(files: NodeFiles) -> list[Path]:
    """Return what a node was writing when it died; meaningless while it runs."""
    from hivemind_exp.trainer.checkpoints import PARTIAL

    places = [files.root.glob(pattern) for pattern in _TEMPORARY]
    places += [directory.glob(f"{PARTIAL}*") for directory in (files.checkpoints, files.hub)]
    return [path for place in places for path in place if _settled(path)]


def _settled(path: Path) -> bool:
    """Whether it belongs to this user and has not changed for a while."""
    with suppress(OSError):
        status = path.lstat()
        return status.st_uid == os.geteuid() and time.time() - status.st_mtime > _SETTLED_S
    return False


def _remove(context: Context) -> str:
    """Look again, as a node may have started since, and remove; a node's files only while its lock is held here."""
    removed = [*_delete(_dead_sockets(context.sockets)), *_delete(_half_made(context.nodes))]
    for files in nodes(context):
        with suppress(OSError), open(files.lock, "ab", opener=partial(os.open, mode=0o600)) as lock:
            if locks.acquire(lock.fileno()):
                removed += _delete(_unfinished(files))
    return f"removed {', '.join(map(shown, removed))}" if removed else "nothing was left to remove"


def _delete(paths: list[Path]) -> list[Path]:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return paths


def checkpoints(context: Context) -> Finding:
    """Verify the newest checkpoint of every node that does not run, and count those set aside as damaged."""
    from hivemind_exp.trainer.checkpoints import DAMAGED, damage

    verified, unread, left = 0, 0, QUICK
    aside: list[Path] = []
    for files in nodes(context):
        aside += sorted(files.checkpoints.glob(f"{DAMAGED}*"))
        newest = max((path for path in files.checkpoints.glob("[0-9]*") if path.name.isdigit()), default=None)
        if newest is None or locks.is_held(files.lock):
            continue
        left -= bytes_in(newest)
        if left < 0 and not context.deep:
            unread += 1
        elif problem := damage(newest):
            return warning(
                f"checkpoint {newest.name} of node {files.root.name} is damaged ({problem}): the next run sets it "
                "aside and goes on from the one before",
                f"swarmctl run --node {shlex.quote(files.root.name)}",
            )
        else:
            verified += 1
    if aside:
        held = size(sum(map(bytes_in, aside)))
        text = f"{len(aside)} damaged checkpoints were set aside and hold {held}, such as {shown(aside[0])}"
        return warning(text, f"rm -r {quoted(aside)}")
    large = f"; {unread} large ones are read only with --deep" if unread else ""
    return ok(f"intact: the newest of {verified} node(s){large}" if verified or unread else "none yet")
