"""What a node needs for a swarm (hivemind's daemon, a port, a key, a charter), and the state of node directories."""

import errno
import os
import platform
import re
import shlex
import shutil
import socket
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from hivemind_exp.errors import IdentityProblem, NodeError
from hivemind_exp.node_files import NodeFiles
from swarmctl.doctor.check import Context, Finding, ask, bytes_in, failed, ok, quoted, skipped, unknown, warning
from swarmctl.doctor.checks.installation import PINS, install, installed
from swarmctl.doctor.checks.machine import more_files
from swarmctl.paths import shown
from swarmctl.storage import node_lock as locks
from swarmctl.storage.json_file import read_json
from swarmctl.terminal.sentences import several, size

QUICK = 256 * 2**20
"""Total bytes of checkpoints that are verified without --deep; more would take seconds."""
_DAEMON_SECONDS = 8.0
_CONNECT_S = 0.5
_OTHERS = 0o077
_SETTLED_S = 60.0
"""An unfinished file or directory that has not changed for this long is abandoned."""
_TEMPORARY = (".node.json.*", ".config.json.*", ".identity.key.*", ".partial-*")
_NONE = "no node on this machine is in a swarm"


def _nodes(context: Context) -> list[NodeFiles]:
    """Return the files of every node on this machine."""
    return [NodeFiles(path.parent) for path in sorted(context.nodes.glob("[!.]*/node.json"))]


def p2pd(_context: Context) -> Finding:
    """Start hivemind's daemon and let it print its help, which opens no port."""
    spec = find_spec("hivemind")
    reinstall = install(f"hivemind=={PINS['hivemind'][1]}", force=True)
    if spec is None or spec.origin is None:
        return failed("hivemind is not installed", reinstall)
    return daemon(Path(spec.origin).parent / "hivemind_cli" / "p2pd", reinstall)


def daemon(path: Path, reinstall: str) -> Finding:
    """Check the daemon at ``path``."""
    if not path.is_file():
        return failed(f"hivemind's daemon p2pd is missing from {shown(path.parent)}", reinstall)
    if not os.access(path, os.X_OK):
        return failed(f"{shown(path)} is not executable", f"chmod +x {quoted([path])}", lambda: _make_executable(path))
    try:
        done = ask([str(path), "-help"], limit=_DAEMON_SECONDS)
    except OSError as error:
        text = f"p2pd does not start on {platform.system()} {platform.machine()}: {error.strerror}"
        return failed(text, reinstall)
    except subprocess.TimeoutExpired:
        return unknown(f"p2pd did not print its help within {_DAEMON_SECONDS:g} s", reinstall)
    if "-listen" not in done.stdout + done.stderr:
        return failed(f"p2pd exited with code {done.returncode} instead of printing its help", reinstall)
    return ok("hivemind's daemon p2pd starts")


def _make_executable(path: Path) -> str:
    path.chmod(path.stat().st_mode | 0o111)
    return f"made {shown(path)} executable"


def port(_context: Context) -> Finding:
    """Open a port and connect to it at each of this machine's IPv4 addresses, loopback last."""
    import psutil

    try:
        every = [address for interface in psutil.net_if_addrs().values() for address in interface]
    except OSError as error:  # this takes a socket, too
        return _no_port(error)
    found = {address.address for address in every if address.family is socket.AF_INET}
    return dial(sorted(found, key=lambda each: (each.startswith("127."), each)))


def dial(targets: Sequence[str]) -> Finding:
    """Listen on every address and check whether the port answers at each of ``targets``."""
    try:
        listener = socket.create_server(("", 0))
    except OSError as error:
        return _no_port(error)
    with listener:
        number = listener.getsockname()[1]
        deaf = []
        for each in targets:
            try:
                socket.create_connection((each, number), timeout=_CONNECT_S).close()
            except OSError:
                deaf.append(each)
    if deaf:
        return warning(f"opened a port, but it does not answer at {', '.join(deaf)}: is there a firewall?", "ip addr")
    outside = ", ".join(each for each in targets if not each.startswith("127."))
    where = outside or "loopback only"
    return ok(f"opened a port and connected to it at {where}; cannot see whether other machines can connect")


def _no_port(error: OSError) -> Finding:
    remedy = more_files() if error.errno == errno.EMFILE else "ip addr"
    return failed(f"cannot open a port: {error.strerror}", remedy)


def node(context: Context) -> Finding:
    """Check whether the selected node is free to run."""
    files = context.files
    name = files.root.name
    if not context.nodes.exists():
        # The first run would create it; --fix creates it now.
        text = f"{shown(context.nodes)} does not exist yet; the first run creates it"
        return ok(text, fix=lambda: _make(context.nodes))
    if not files.root.exists():
        return ok(f"node {name} does not exist yet; the first run creates it")
    if read_json(files.identity) is None:
        text = f"{shown(files.root)} is not a node: it has no readable {files.identity.name}"
        return failed(text, f"ls -la {quoted([files.root])}")
    if not locks.is_held(files.lock):
        return ok(f"node {name} is not running")
    holder = locks.holder(files.lock)
    pid = holder.get("pid")
    if pid is None and holder.get("trainer") is not None:
        text = f"node {name} has lost its supervisor; its trainer (pid {holder.get('trainer')}) should stop by itself"
        return warning(text, f"swarmctl status --node {shlex.quote(name)}")
    return ok(f"node {name} is running (pid {pid}, since {holder.get('since')})")


def _make(directory: Path) -> str:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return f"created {shown(directory)}"


def key(context: Context) -> Finding:
    """Check that the keys of this machine's nodes can be read and that no two nodes share one."""
    from hivemind_exp.swarm.identity import Identity

    keyed = [files for files in _nodes(context) if files.key.exists()]
    if not keyed:
        return skipped("no node on this machine has a key yet; a node gets one when it joins a swarm")
    peers: Counter[str] = Counter()
    for files in keyed:
        try:
            peers[Identity.load(files.key).peer_id] += 1
        except IdentityProblem as error:
            return failed(f"key of node {files.root.name}: {error.message}", error.next)
    if copied := [peer for peer, count in peers.items() if count > 1]:
        text = f"several nodes share the key of peer {copied[0]}; only one of them can run at a time"
        return warning(text, "swarmctl identity show")
    return ok(f"can read the {_of('key', keyed)}")


def charter(context: Context) -> Finding:
    """Check the charters of this machine's nodes and the library versions that they pin."""
    from swarmctl.swarm.member import member

    members = _members(context)
    for name in (files.root.name for files in members):
        try:
            found = member(name, "show").charter
        except NodeError as error:
            return failed(error.message, error.next)
        for task in found.tasks:
            library, _, version = task.version.partition(" ")
            here = installed(library) if library else version
            if here != version:
                wanted = f"swarm {found.name} of node {name} needs {task.version} for {task.label}"
                return failed(f"{wanted}, but this machine has {here or 'none'}", install(f"{library}=={version}"))
    return ok(f"this machine supports the {_of('charter', members)}") if members else skipped(_NONE)


def listen(context: Context) -> Finding:
    """Check that no other program uses the ports that nodes keep."""
    from hivemind_exp.swarm.addresses import is_free, read_port

    members = _members(context)
    for files in members:
        name, number = files.root.name, read_port(files.swarm)
        if number is not None and not locks.is_held(files.lock) and not is_free(number):
            return warning(
                f"port {number} of node {name} is in use by another program; the node will choose another port, and "
                "its existing invitations will stop working",
                f"swarmctl swarm invite --node {shlex.quote(name)}",
            )
    return ok(f"no other program uses the {_of('port', members)}") if members else skipped(_NONE)


def _members(context: Context) -> list[NodeFiles]:
    return [files for files in _nodes(context) if files.charter.exists()]


def _of(what: str, found: list[NodeFiles]) -> str:
    names = ", ".join(files.root.name for files in found)
    plural = "" if len(found) == 1 else "s"
    return f"{what}{plural} of node{plural} {names}"


def modes(context: Context) -> Finding:
    """Look for secrets and node directories that other users on this machine can read."""
    own = _nodes(context)
    secret = [path for files in own for path in (files.root / "secret", files.key) if path.is_file() and _is_open(path)]
    bad = [*secret, *(path for path in (context.nodes, *(files.root for files in own)) if _is_open(path))]
    if not bad:
        return ok("only the owner can read node directories and secrets")
    named = ", ".join(f"{shown(path)} ({stat.S_IMODE(path.stat().st_mode):04o})" for path in bad[:3])
    text = f"other users can read {named}" + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
    # A readable directory only reveals what a node does. With a readable secret, others can predict the node's held-out
    # questions; with a readable key, they can impersonate it.
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
    return f"made {', '.join(map(shown, paths))} private"


def leftovers(context: Context) -> Finding:
    """Look for files of this user that nothing will use again."""
    unfinished = [path for files in _nodes(context) if not locks.is_held(files.lock) for path in _unfinished(files)]
    kinds = (
        (_dead_sockets(context.sockets), "sockets of dead daemons"),
        (_half_made(context.nodes), "unfinished node directories"),
        (unfinished, "unfinished files and checkpoints"),
    )
    found = [path for paths, _ in kinds for path in paths]
    if not found:
        return ok("none")
    text = ", ".join(f"{kind}: {len(paths)}" for paths, kind in kinds if paths)
    again = context.again("swarm", "--fix")
    return warning(f"{text}; for example {shown(found[0])}", again, lambda: _remove(context))


def _dead_sockets(directory: Path) -> list[Path]:
    """Return this user's sockets of hivemind daemons on which no process listens."""
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
        return False  # gone meanwhile, or busy: leave it alone
    return False


def _half_made(directory: Path) -> list[Path]:
    """Return the directories of nodes whose creation was interrupted."""
    return [path for path in sorted(directory.glob(".*.*")) if _is_staging(path) and _settled(path)]


def _is_staging(path: Path) -> bool:
    """Whether this is what ``nodes`` creates first: a directory, empty or with only ``node.json``, perhaps partial."""
    try:
        return all(re.fullmatch(r"(\.)?node\.json(\..*)?", child.name) for child in path.iterdir())
    except OSError:  # not a directory, or gone meanwhile
        return False


def _unfinished(files: NodeFiles) -> list[Path]:
    """Return what a node was writing when it died. Valid only while the node does not run."""
    from hivemind_exp.trainer.checkpoints import PARTIAL

    places = [files.root.glob(pattern) for pattern in _TEMPORARY]
    places += [directory.glob(f"{PARTIAL}*") for directory in (files.checkpoints, files.hub)]
    return [path for place in places for path in place if _settled(path)]


def _settled(path: Path) -> bool:
    """Whether the file belongs to this user and has not changed for ``_SETTLED_S``."""
    with suppress(OSError):
        status = path.lstat()
        return status.st_uid == os.geteuid() and time.time() - status.st_mtime > _SETTLED_S
    return False


def _remove(context: Context) -> str:
    """Look again, because a node may have started since, and delete. Holds a node's lock while deleting its files."""
    removed = [*_delete(_dead_sockets(context.sockets)), *_delete(_half_made(context.nodes))]
    for files in _nodes(context):
        with suppress(OSError), open(files.lock, "ab", opener=partial(os.open, mode=0o600)) as lock:
            if locks.acquire(lock.fileno()):
                removed += _delete(_unfinished(files))
    return f"removed {', '.join(map(shown, removed))}" if removed else "nothing to remove"


def _delete(paths: list[Path]) -> list[Path]:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return paths


def checkpoints(context: Context) -> Finding:
    """Verify the newest checkpoint of every stopped node, and count damaged checkpoints that were set aside."""
    from hivemind_exp.trainer.checkpoints import DAMAGED, damage

    verified, unread, left = 0, 0, QUICK
    aside: list[Path] = []
    for files in _nodes(context):
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
                "aside and resumes from the previous one",
                f"swarmctl run --node {shlex.quote(files.root.name)}",
            )
        else:
            verified += 1
    if aside:
        held = size(sum(map(bytes_in, aside)))
        text = f"{several(len(aside), 'damaged checkpoint')} set aside, using {held}; for example {shown(aside[0])}"
        return warning(text, f"rm -r {quoted(aside)}")
    large = f"; {several(unread, 'large checkpoint')} verified only with --deep" if unread else ""
    return ok(
        f"the newest checkpoint of {several(verified, 'node')} is intact{large}" if verified or unread else "none yet"
    )
