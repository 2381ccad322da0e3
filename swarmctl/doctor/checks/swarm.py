"""What a node stands on in a swarm: hivemind's daemon, a port, a directory that is free, a key and a charter."""

import os
import platform
import shlex
import socket
import subprocess
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from hivemind_exp.errors import IdentityProblem, NodeError
from hivemind_exp.node_files import NodeFiles
from swarmctl.doctor.check import Context, Finding, failed, ok, quoted, skipped, warning
from swarmctl.doctor.checks.installation import PINS, install, installed
from swarmctl.doctor.checks.node_directories import nodes
from swarmctl.doctor.runner import ask
from swarmctl.paths import shown
from swarmctl.storage import node_lock as locks
from swarmctl.storage.json_file import read_json

_DAEMON_SECONDS = 2.0
_CONNECT_S = 0.5
_NONE = "no node of this machine is in a swarm"


def p2pd(_context: Context) -> Finding:
    """Start hivemind's daemon for as long as it takes to print its help: no port is opened."""
    spec = find_spec("hivemind")
    reinstall = install(f"hivemind=={PINS['hivemind'][1]}", force=True)
    if spec is None or spec.origin is None:
        return failed("hivemind is not installed", reinstall)
    return daemon(Path(spec.origin).parent / "hivemind_cli" / "p2pd", reinstall)


def daemon(path: Path, reinstall: str) -> Finding:
    """Judge the daemon at ``path``."""
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
        return failed(f"p2pd does not even print its help within {_DAEMON_SECONDS:g} s", reinstall)
    if "-listen" not in done.stdout + done.stderr:
        return failed(f"p2pd ends with code {done.returncode} instead of printing its help", reinstall)
    return ok("hivemind's daemon p2pd starts")


def _make_executable(path: Path) -> str:
    path.chmod(path.stat().st_mode | 0o111)
    return f"made {shown(path)} executable"


def port(_context: Context) -> Finding:
    """Open a port, and dial it at each IPv4 address of this machine, loopback last."""
    import psutil

    every = [address for interface in psutil.net_if_addrs().values() for address in interface]
    found = {address.address for address in every if address.family is socket.AF_INET}
    return dial(sorted(found, key=lambda each: (each.startswith("127."), each)))


def dial(targets: Sequence[str]) -> Finding:
    """Judge how a port that listens at every address answers at ``targets``."""
    try:
        listener = socket.create_server(("", 0))
    except OSError as error:
        return failed(f"no port can be opened: {error.strerror}", "ulimit -n 65536")
    with listener:
        number = listener.getsockname()[1]
        deaf = [each for each in targets if not _answers(each, number)]
    if deaf:
        return warning(f"a port can be opened, and does not answer at {', '.join(deaf)}: a firewall?", "ip addr")
    outside = ", ".join(each for each in targets if not each.startswith("127."))
    where = outside or "loopback alone"
    return ok(f"a port can be opened and dialled from here at {where}; whether others reach it is not known here")


def _answers(address: str, number: int) -> bool:
    try:
        socket.create_connection((address, number), timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True


def node(context: Context) -> Finding:
    """Tell whether the node that the command means is free to run."""
    files = context.files
    name = files.root.name
    if not context.nodes.exists():
        # The first run would make it; on request it is made now.
        text = f"{shown(context.nodes)} is not there yet; the first run makes it"
        return ok(text, fix=lambda: _make(context.nodes))
    if not files.root.exists():
        return ok(f"node {name} is not there yet; the first run makes it")
    if read_json(files.identity) is None:
        text = f"{shown(files.root)} is not a node: it has no readable {files.identity.name}"
        return failed(text, f"ls -la {quoted([files.root])}")
    if not locks.is_held(files.lock):
        return ok(f"node {name} is free")
    holder = read_json(files.lock) or {}
    pid = holder.get("pid")
    if isinstance(pid, int) and not locks.is_alive(pid):
        text = f"the supervisor of node {name} is gone; its trainer, pid {holder.get('trainer')}, should stop by itself"
        return warning(text, f"swarmctl status --node {shlex.quote(name)}")
    return ok(f"node {name} is running (pid {pid}, since {holder.get('since')})")


def _make(directory: Path) -> str:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return f"made {shown(directory)}"


def key(context: Context) -> Finding:
    """Read the keys of this machine's nodes."""
    from hivemind_exp.swarm.identity import Identity

    keyed = [files for files in nodes(context) if files.key.exists()]
    if not keyed:
        return skipped("no node of this machine has a key yet; it gets one when it joins a swarm")
    peers: Counter[str] = Counter()
    for files in keyed:
        try:
            peers[Identity.load(files.key).peer_id] += 1
        except IdentityProblem as error:
            return failed(f"the key of node {files.root.name}: {error.message}", error.next)
    if copied := [peer for peer, count in peers.items() if count > 1]:
        text = f"several nodes share the key of {copied[0]}; only one of them can run at a time"
        return warning(text, "swarmctl identity show")
    return ok(f"{_of('key', keyed)} can be used")


def charter(context: Context) -> Finding:
    """Check the charters of this machine's nodes, and the versions of the libraries that they pin."""
    from swarmctl.swarm.member import member

    members = _members(context)
    for name in (files.root.name for files in members):
        try:
            found = member(name).charter
        except NodeError as error:
            return failed(error.message, error.next)
        for task in found.tasks:
            library, _, version = task.version.partition(" ")
            here = installed(library) if library else version
            if here != version:
                wanted = f"swarm {found.name} of node {name} makes {task.label} with {task.version}"
                return failed(f"{wanted}, and this machine has {here or 'none'}", install(f"{library}=={version}"))
    return ok(f"{_of('charter', members)} can be played here") if members else skipped(_NONE)


def listen(context: Context) -> Finding:
    """Tell whether the ports that nodes keep are theirs."""
    from hivemind_exp.swarm.addresses import is_free, read_port

    members = _members(context)
    for files in members:
        name, number = files.root.name, read_port(files.swarm)
        if number is not None and not locks.is_held(files.lock) and not is_free(number):
            return warning(
                f"port {number} of node {name} is taken by another program; the node will choose another, and its "
                "invitations of before then lead nowhere",
                f"swarmctl swarm invite --node {shlex.quote(name)}",
            )
    return ok(f"{_of('port', members)} is free, or its node runs") if members else skipped(_NONE)


def _members(context: Context) -> list[NodeFiles]:
    return [files for files in nodes(context) if files.charter.exists()]


def _of(what: str, found: list[NodeFiles]) -> str:
    names = ", ".join(files.root.name for files in found)
    return f"{'the' if len(found) == 1 else 'each'} {what} of {names}"
