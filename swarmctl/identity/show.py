"""``swarmctl identity show``: who the nodes of this machine are in their swarms. Reads files only."""

from __future__ import annotations

import json
import os
from typing import Any

from hivemind_exp.errors import IdentityProblem
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.peer_names import animal_name
from swarmctl.errors import Exit
from swarmctl.nodes.lookup import existing, node_names
from swarmctl.paths import nodes_directory, shown
from swarmctl.storage import node_lock as locks
from swarmctl.terminal.safe_text import clean


def show(node: str | None, *, as_json: bool) -> Exit:
    """Print who one node is, or all; return 3 where a key cannot be used."""
    chosen = [existing(node)] if node is not None else [NodeFiles(nodes_directory() / name) for name in node_names()]
    rows = [describe(files) for files in chosen]
    if as_json:
        print(json.dumps({"schema": 1, "identities": rows}))
    elif not rows:
        print(f"No node yet in {shown(nodes_directory())}.")
    else:
        widths = [max(len(row[key] or "") for row in rows) for key in ("node", "name")]
        for row in rows:
            print(clean(_line(row, widths)))
    return Exit.CONFIGURATION if any(row["problem"] for row in rows) else Exit.DONE


def describe(files: NodeFiles) -> dict[str, Any]:
    """Return who a node is. Without an identity its fields are None; ``problem`` is one that keeps it from use."""
    identity, problem = None, None
    if os.path.lexists(files.key):
        try:
            identity = Identity.load(files.key)
        except IdentityProblem as error:
            problem = error.message
    return {
        "node": files.root.name,
        "peer_id": identity.peer_id if identity else None,
        "name": animal_name(identity.peer_id) if identity else None,
        "file": str(files.key),
        "running": locks.is_held(files.lock),
        "problem": problem,
    }


def _line(row: dict[str, Any], widths: list[int]) -> str:
    said = row["peer_id"] or (f"error: {row['problem']}" if row["problem"] else "no identity yet")
    columns = [row["node"].ljust(widths[0]), (row["name"] or "").ljust(widths[1]), said]
    return "  ".join(column for column in columns if column) + ("  running" if row["running"] else "")
