"""What a node of a swarm stands on: hivemind's daemon, a port, its own directory, and modes that keep secrets."""

import os
import platform
import shlex
import socket
import stat
import subprocess
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from hivemind_exp.node_files import NodeFiles
from swarmctl.doctor.check import Context, Finding, failed, ok, quoted, warning
from swarmctl.doctor.checks.installation import install
from swarmctl.doctor.checks.requirements import PINS
from swarmctl.doctor.subprocesses import ask
from swarmctl.paths import shown
from swarmctl.storage import node_lock as locks
from swarmctl.storage.json_file import read_json

_OTHERS = 0o077
_DAEMON_SECONDS = 2.0
_CONNECT_S = 0.5


def nodes(context: Context) -> list[NodeFiles]:
    """Return the files of every node of this machine."""
    return [NodeFiles(path.parent) for path in sorted(context.nodes.glob("[!.]*/node.json"))]


def p2pd(_context: Context) -> Finding:
    """Start hivemind's daemon for as long as it takes to print its help: no port is opened."""
    spec = find_spec("hivemind")
    reinstall = install(f"hivemind=={PINS['hivemind'][1]}", force=True)
    if spec is None or spec.origin is None:
        return failed("hivemind is not installed", reinstall)
    path = Path(spec.origin).parent / "hivemind_cli" / "p2pd"
    return daemon(path, reinstall)


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
    """Open a port, and dial it at each address of this machine."""
    return dial(addresses())


def addresses() -> list[str]:
    """Return the IPv4 addresses of this machine, loopback last."""
    import psutil

    found = {
        address.address
        for interface in psutil.net_if_addrs().values()
        for address in interface
        if address.family is socket.AF_INET
    }
    return sorted(found, key=lambda each: (each.startswith("127."), each))


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
    outside = [each for each in targets if not each.startswith("127.")]
    where = ", ".join(outside) if outside else "loopback alone"
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
        return warning(
            f"the supervisor of node {name} is gone; its trainer, pid {holder.get('trainer')}, should stop by itself",
            f"swarmctl status --node {shlex.quote(name)}",
        )
    return ok(f"node {name} is running (pid {pid}, since {holder.get('since')})")


def _make(directory: Path) -> str:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return f"made {shown(directory)}"


def modes(context: Context) -> Finding:
    """Look for secrets and node directories that others on this machine can read."""
    secret = [path for files in nodes(context) for path in secrets(files) if _is_open(path)]
    directories = [path for path in (context.nodes, *(files.root for files in nodes(context))) if _is_open(path)]
    if not secret and not directories:
        return ok("node directories and secrets are for their owner alone")
    bad = [*secret, *directories]
    named = ", ".join(f"{shown(path)} ({stat.S_IMODE(path.stat().st_mode):04o})" for path in bad[:3])
    text = f"others can read {named}" + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
    # An open directory tells what a node does; an open secret lets others foresee its held-out questions, and an open
    # key lets them be this node.
    verdict = failed if secret else warning
    return verdict(text, f"chmod go-rwx {quoted(bad)}", lambda: _close(bad))


def secrets(files: NodeFiles) -> Iterator[Path]:
    """Yield the files of a node that nobody else may read."""
    yield from (path for path in (files.root / "secret", files.key) if path.is_file())


def _is_open(path: Path) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    return bool(status.st_mode & _OTHERS) and status.st_uid == os.geteuid()


def _close(paths: list[Path]) -> str:
    for path in paths:
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~_OTHERS)
    return f"closed {', '.join(shown(path) for path in paths)} to others"
