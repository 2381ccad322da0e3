"""The file of a node's service, in the place where this system's service manager looks for it."""

import os
import plistlib
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from hivemind_exp.errors import NodeConflict
from hivemind_exp.node_files import NodeFiles
from swarmctl.paths import HOME_VARIABLE


def service_name(node: str) -> str:
    """Return the name of a node's service."""
    return f"swarmctl-{node}"


def unit_file(node: str) -> Path:
    """Return the file of a user service of systemd."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    config = Path(base) if os.path.isabs(base) else Path.home() / ".config"
    return config / "systemd/user" / f"{service_name(node)}.service"


def agent_file(node: str) -> Path:
    """Return the file of a launch agent of macOS."""
    return Path.home() / "Library/LaunchAgents" / f"{service_name(node)}.plist"


def refuse_with_service(files: NodeFiles, verb: str) -> None:
    """Raise NodeConflict if a node has a service, which would start a node that no longer exists.

    ``verb``: what cannot be done, such as ``renamed``.
    """
    name = files.root.name
    if _has_service(name):
        raise NodeConflict(
            f"node {name} cannot be {verb} while it has a service; uninstall that first (the node stays)",
            next=shlex.join(["swarmctl", "service", "uninstall", name]),
        )


def _has_service(node: str) -> bool:
    """Whether a node has a service; not one of the same name in another ``SWARMCTL_HOME``."""
    with suppress(OSError, ValueError):
        return _home_of(node) == _absolute(os.environ.get(HOME_VARIABLE))
    return False


def _home_of(node: str) -> str | None:
    """Return the ``SWARMCTL_HOME`` of a node's service; None if it has the usual one.

    Raises OSError if there is no service, ValueError if its file is damaged.
    """
    if sys.platform == "darwin":
        agent: dict[str, Any] = plistlib.loads(agent_file(node).read_bytes())
        return (agent.get("EnvironmentVariables") or {}).get(HOME_VARIABLE)
    start, homes = f'Environment="{HOME_VARIABLE}=', unit_file(node).read_text(encoding="utf-8").splitlines()
    found = next((line.removeprefix(start).removesuffix('"') for line in homes if line.startswith(start)), None)
    return None if found is None else found.replace("%%", "%").replace('\\"', '"').replace("\\\\", "\\")


def _absolute(home: str | None) -> str | None:
    return os.path.abspath(os.path.expanduser(home)) if home else None
