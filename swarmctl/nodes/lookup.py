"""Find node directories by name."""

from __future__ import annotations

from pathlib import Path

from hivemind_exp.errors import ConfigurationError
from hivemind_exp.node_files import NodeFiles
from swarmctl.paths import nodes_directory, shown
from swarmctl.terminal.suggest import nearest


def node_names() -> list[str]:
    """Return the names of the nodes of this machine."""
    return sorted(path.parent.name for path in nodes_directory().glob("[!.]*/node.json"))


def existing(name: str) -> NodeFiles:
    """Return the files of a node. Raises ConfigurationError where there is no such node."""
    names = node_names()
    if name in names:
        return NodeFiles(nodes_directory() / name)
    guess = nearest(name, names)
    hint = f"; did you mean {guess}?" if guess else ""
    raise ConfigurationError(f"no node named {name!r}{hint}", next="swarmctl status")


def latest() -> NodeFiles:
    """Return the node that said something last."""
    nodes = [NodeFiles(nodes_directory() / name) for name in node_names()]
    heard = [node for node in nodes if node.events.exists()]
    if not heard:
        raise ConfigurationError(f"no node has run yet in {shown(nodes_directory())}", next="swarmctl run")
    return max(heard, key=lambda node: node.events.stat().st_mtime)


def files_of(name: str) -> NodeFiles:
    """Return the files of the node ``name``, which need not exist."""
    return NodeFiles(nodes_directory() / name)


def other_name(name: str) -> str:
    """Return a name like ``name`` that no node has."""
    directory = nodes_directory()
    return next(found for n in range(2, 10_000) if not (directory / (found := f"{name}-{n}")).exists())


def left_directory(files: NodeFiles, swarm: str) -> Path:
    """Return where a node that has left a swarm keeps its charter and what it knew of peers."""
    return files.root / "left" / short_id(swarm)


def short_id(swarm: str) -> str:
    """Return a swarm's id for people: enough of it to tell a few swarms apart."""
    return swarm[:12]
