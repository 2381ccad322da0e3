"""Install, delete and show services."""

import getpass
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from enum import StrEnum
from os import environ
from types import ModuleType

from hivemind_exp import atomic_write
from hivemind_exp.errors import ConfigurationError, NodeConflict, NodeError
from hivemind_exp.foreign_text import foreign
from swarmctl.errors import Exit, exit_code
from swarmctl.nodes.lookup import all_nodes, existing, files_of, readable
from swarmctl.paths import shown
from swarmctl.service import compose, launchd, systemd
from swarmctl.service.definition import FINAL, Service, define
from swarmctl.settings.options import RunOptions
from swarmctl.storage import node_lock as locks
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.table import or_dash, table_lines
from swarmctl.terminal.views import Writer


class Manager(StrEnum):
    """What runs services."""

    SYSTEMD = "systemd"
    LAUNCHD = "launchd"
    COMPOSE = "compose"


_MODULES: dict[Manager, ModuleType] = {Manager.SYSTEMD: systemd, Manager.LAUNCHD: launchd, Manager.COMPOSE: compose}


def of_this_system() -> Manager:
    """Return what runs this system's services. Raises ConfigurationError if there is nothing that does."""
    manager = Manager.LAUNCHD if sys.platform == "darwin" else Manager.SYSTEMD
    program = _MODULES[manager].PROGRAM
    if shutil.which(program) is None:
        raise ConfigurationError(
            f"this system has no {program}. In a container, use Docker Compose",
            next="swarmctl service install NODE --print compose",
        )
    return manager


def install(name: str, keys: Sequence[str], *, printed: Manager | None, as_json: bool) -> None:
    """Write a node's service and start it; with ``printed``, only print its file.

    Raises NodeConflict if the node is running, NodeError if the system does not start the service.
    """
    files = readable(name)
    service, warnings = define(files, keys, environ)
    say = Writer(sys.stderr)
    for warning in warnings:
        say(f"warning: {warning}.")
    if printed is not None:
        content = _MODULES[printed].text(service)
        if as_json:
            print_json(node=name, manager=str(printed), text=content)
        else:
            print(content, end="")
        return
    manager = of_this_system()
    module = _MODULES[manager]
    if locks.is_held(files.lock) and module.state(service) is None:
        stop = shlex.join(["swarmctl", "stop", name])
        raise NodeConflict(f"node {name} is running; stop it first, so that its service can start it", next=stop)
    path = module.path(service)
    before = path.read_bytes() if path.exists() else None
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write.write(path, module.text(service))
    try:
        for command in module.activate(service):
            _call(command)
    except NodeError as error:
        path.unlink() if before is None else atomic_write.write(path, before)
        error.next = shlex.join(["swarmctl", "service", "install", name, "--print", str(manager)])
        raise
    if as_json:
        print_json(node=name, manager=str(manager), file=str(path), lingers=_lingers(manager))
        return
    write = Writer(sys.stdout)
    write(f"Wrote {shown(path)}. Node {name} now runs as a service of {manager}, also after a reboot.")
    if _lingers(manager) is False:
        write("It starts when you log in and ends when you log out. To keep it running:")
        write(f"  sudo loginctl enable-linger {shlex.quote(getpass.getuser())}")
    if manager is Manager.LAUNCHD:
        write("It runs while you are logged in.")
    write("To watch it, or delete the service:")
    write(f"  {typed(shlex.join(['swarmctl', 'attach', name]))}")
    write(f"  {typed(shlex.join(['swarmctl', 'service', 'uninstall', name]))}")


def uninstall(name: str, *, as_json: bool) -> None:
    """Stop and delete a node's service. The node stays. Raises ConfigurationError if it has no service."""
    manager = of_this_system()
    module, service = _MODULES[manager], _bare(name)
    path = module.path(service)
    if not path.exists():
        existing(name)
        raise ConfigurationError(f"node {name} has no service", next="swarmctl service status")
    for command in module.deactivate(service):
        if module.state(service) is not None:
            _call(command)
    with disk_errors(path.parent):
        path.unlink()
    for command in module.after_removal():
        _call(command)
    if as_json:
        print_json(node=name, manager=str(manager), file=str(path))
    else:
        Writer(sys.stdout)(f"Stopped and deleted the service of node {name}. The node itself is unchanged.")


def status(name: str | None, *, as_json: bool) -> None:
    """Print a node's service, or those of all nodes."""
    manager = of_this_system()
    module = _MODULES[manager]
    names = [name] if name is not None else [files.root.name for files in all_nodes()]
    rows = []
    for each in names:
        service = _bare(existing(each).root.name)
        installed = module.path(service).exists()
        rows.append(
            {
                "node": each,
                "installed": installed,
                "state": module.state(service) if installed else None,
                "file": str(module.path(service)) if installed else None,
            }
        )
    if as_json:
        print_json(manager=str(manager), lingers=_lingers(manager), services=rows)
        return
    write = Writer(sys.stdout)
    shown_rows = [row for row in rows if row["installed"] or name is not None]
    if not shown_rows:
        write("No node runs as a service.")
        return
    cells = [[str(row["node"]), _state(row), or_dash(row["file"], str)] for row in shown_rows]
    for line in table_lines(cells, ("node", "service", "file")):
        print(line)
    if _lingers(manager) is False:
        write(f"Services end when you log out. To keep them running: sudo loginctl enable-linger {getpass.getuser()}")


def _state(row: dict[str, object]) -> str:
    return str(row["state"] or "not loaded") if row["installed"] else "not installed"


def run(name: str, *, zero_if_final: bool) -> int:
    """Run a node as a service does; return the exit code. Raises the NodeError of a run that failed.

    ``zero_if_final``: end with 0 after a failure that a restart would not help against, for managers that restart after
    any other code.
    """
    from swarmctl.errors import print_error
    from swarmctl.run.command import run_command

    try:
        existing(name)  # a run would create it
        code = run_command(RunOptions(node=name, plain=True, quiet=True, no_input=True, unattended=True))
    except NodeError as error:
        if not zero_if_final or exit_code(error) not in FINAL:
            raise
        print_error(error, as_json=False)
        return Exit.DONE
    return Exit.DONE if zero_if_final and code in FINAL else code


def _bare(name: str) -> Service:
    """Return a service of which only the name matters. Its node may have been deleted."""
    return Service(name, files_of(name).root, (), {}, {}, "auto")


def _lingers(manager: Manager) -> bool | None:
    """Whether services run while the user is not logged in; None if the system has no such choice."""
    return systemd.lingers(getpass.getuser()) if manager is Manager.SYSTEMD else None


def _call(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        why = "" if "connect to bus" not in said else ". (It works in a login session, not after su or sudo.)"
        raise NodeError(f"{shlex.join(command)} failed: {foreign(said)}{why}", next=shlex.join(command))
