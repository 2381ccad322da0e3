"""Which node a file belongs to: checkpoints and journals name the node that wrote them.

Files of older versions name none, and nodes of older versions get an id with their next run. Both are accepted.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hivemind_exp.errors import NodeConflict
from hivemind_exp.foreign_text import foreign
from hivemind_exp.node_files import NodeFiles


@dataclass(frozen=True, slots=True)
class NodeId:
    """A node, as its files name it. It stays the same if the node is renamed, moved or restored."""

    id: str
    name: str
    """When the file was written."""
    ancestors: tuple[str, ...] = ()
    """The ids of the nodes that it was forked or restored from: their files are its own, too."""

    def owns(self, other: NodeId) -> bool:
        """Whether a file that names ``other`` belongs to this node."""
        return other.id == self.id or other.id in self.ancestors

    def as_json(self) -> dict[str, str]:
        return {"id": self.id, "name": self.name}


def new_id() -> str:
    """Return the id of a new node."""
    return secrets.token_hex(16)


def node_id(files: NodeFiles) -> NodeId | None:
    """Return a node's id; None if it has none, because it is new, of an older version, or not made by swarmctl."""
    try:
        made = json.loads(files.identity.read_bytes())
        return NodeId(str(made["id"]), files.root.name, tuple(map(str, made.get("ancestors") or ())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def descendant(made: dict[str, Any]) -> dict[str, Any]:
    """Return what the ``node.json`` of a fork or of another node from a backup has instead of ``made``'s."""
    before = [made["id"]] if "id" in made else []
    return {"id": new_id(), "ancestors": [*(made.get("ancestors") or []), *before]}


def read_id(value: object) -> NodeId | None:
    """Return the node that a file names; None if it names none."""
    if not isinstance(value, dict) or not isinstance(value.get("id"), str):
        return None
    return NodeId(value["id"], str(value.get("name")))


def of_another_node(path: Path, what: str, its: NodeId, owner: NodeId, aside: str) -> NodeConflict:
    """Return the error for a file that another node wrote. ``aside``: the command that moves it away."""
    writer = foreign(its.name)
    whose = f"another node named {writer}" if its.name == owner.name else f"node {writer}, not of node {owner.name}"
    return NodeConflict(
        f"{path} is {what} of {whose}. To continue from a node's checkpoint in a new node, use swarmctl fork; if the "
        "file was copied here by mistake, move it aside",
        next=aside,
    )
