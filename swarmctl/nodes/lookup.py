"""Find node directories by name."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hivemind_exp.errors import ConfigurationError
from hivemind_exp.formats import NODE_FORMAT, check_number
from hivemind_exp.node_files import NodeFiles
from swarmctl.errors import UsageError
from swarmctl.nodes.history import last_active
from swarmctl.paths import nodes_directory, shown
from swarmctl.storage import node_lock as locks
from swarmctl.storage.json_file import read_json
from swarmctl.terminal.suggest import nearest


def node_names() -> list[str]:
    """Return the names of all nodes on this machine."""
    return sorted(path.parent.name for path in nodes_directory().glob("[!.]*/node.json"))


def files_of(name: str) -> NodeFiles:
    """Return the files of the node ``name``, which may not exist."""
    return NodeFiles(nodes_directory() / name)


def all_nodes() -> list[NodeFiles]:
    """Return the files of all nodes on this machine."""
    return [files_of(name) for name in node_names()]


def existing(name: str) -> NodeFiles:
    """Return the files of a node. Raises ConfigurationError if it does not exist."""
    names = node_names()
    if name in names:
        return files_of(name)
    guess = nearest(name, names)
    hint = f"; did you mean {guess}?" if guess else ""
    raise ConfigurationError(f"unknown node {name!r}{hint}", next="swarmctl status")


def readable(name: str) -> NodeFiles:
    """Return the files of a node, for a command that uses what they contain.

    Raises ConfigurationError if it does not exist, and NewerFormat.
    """
    files = existing(name)
    check_node_format(files)
    return files


def check_node_format(files: NodeFiles) -> None:
    """Raise NewerFormat if a newer version wrote a node's directory, so that this one could misread it."""
    check_number(files.identity, (read_json(files.identity) or {}).get("format"), NODE_FORMAT)


def some_or_all(names: Sequence[str]) -> list[NodeFiles]:
    """Return the files of the named nodes, or of all if no name is given. Raises ConfigurationError."""
    return [existing(name) for name in dict.fromkeys(names)] if names else all_nodes()


def one_name(argument: str | None, option: str | None) -> str | None:
    """Return the node named as an argument or with ``--node``. Raises UsageError for two names."""
    if argument is not None and option is not None and argument != option:
        raise UsageError(f"two node names: {argument} and {option}; use only one", next="swarmctl status")
    return argument or option


def existing_or_latest(name: str | None) -> NodeFiles:
    """Return the files of a node, or of the latest one (``latest``). Raises ConfigurationError and NewerFormat."""
    if name is not None:
        return readable(name)
    active = [files for files in all_nodes() if last_active(files) is not None]
    if not active:
        raise ConfigurationError(f"no node has run yet in {shown(nodes_directory())}", next="swarmctl run")
    files = latest(active)
    check_node_format(files)
    return files


def latest(nodes: Sequence[NodeFiles]) -> NodeFiles:
    """Return the node that a command uses or suggests if several fit.

    That is the running node that was started last, or, if none runs, the one that ran or was created last. So it stays
    the same while several nodes run.
    """
    return max(nodes, key=_recency)


def _recency(files: NodeFiles) -> tuple[bool, float, str]:
    if locks.is_held(files.lock):
        since = (read_json(files.lock) or {}).get("since")
        started = datetime.fromisoformat(since).timestamp() if isinstance(since, str) else 0.0
        return True, started, files.root.name
    created = files.identity.stat().st_mtime if files.identity.exists() else 0.0
    return False, last_active(files) or created, files.root.name


def provider_of_a_node(name: str) -> dict[str, Any] | None:
    """Return the ``[providers.NAME]`` with which a node ran, of the one that ran last; None if no node has one.

    A server whose address was typed is in no profile, but commands suggest its name.
    """
    for files in sorted(all_nodes(), key=_recency, reverse=True):
        providers = ((read_json(files.config) or {}).get("config") or {}).get("providers")
        found = providers.get(name) if isinstance(providers, dict) else None
        if isinstance(found, dict) and isinstance(found.get("base_url"), str):
            return found
    return None


def no_node_yet() -> str:
    """Return the sentence to print if this machine has no nodes."""
    return f"No nodes yet in {shown(nodes_directory())}."


def other_name(name: str) -> str:
    """Return a name based on ``name`` that no node has."""
    return next(found for n in range(2, 10_000) if not files_of(found := f"{name}-{n}").root.exists())


def left_directory(files: NodeFiles, swarm: str) -> Path:
    """Return the directory in which a node that left a swarm keeps the charter and its records about peers."""
    return files.root / "left" / short_id(swarm)


def short_id(swarm: str) -> str:
    """Return the first part of a swarm's id, for display: enough to distinguish a few swarms."""
    return swarm[:12]
