"""``swarmctl identity show``: show the identities of this machine's nodes. Reads files only."""

import os
import sys
from typing import Any

from hivemind_exp.errors import IdentityProblem
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.swarm.identity import Identity, animal_name
from swarmctl.errors import Exit
from swarmctl.nodes.lookup import no_node_yet, some_or_all
from swarmctl.storage import node_lock as locks
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.table import print_table
from swarmctl.terminal.views import Writer


def show(node: str | None, *, as_json: bool) -> Exit:
    """Print one node's identity, or all. Returns CONFIGURATION if a key cannot be used."""
    rows = [describe(files) for files in some_or_all([] if node is None else [node])]
    if as_json:
        print_json(identities=rows)
    elif not rows:
        Writer(sys.stdout)(no_node_yet())
    else:
        cells = []
        for row in rows:
            state = row["peer_id"] or (f"error: {row['problem']}" if row["problem"] else "no identity yet")
            cells.append([row["node"], row["name"] or "", state, "running" if row["running"] else ""])
        print_table(cells)
    return Exit.CONFIGURATION if any(row["problem"] for row in rows) else Exit.DONE


def describe(files: NodeFiles) -> dict[str, Any]:
    """Return a node's identity; its fields are None if there is none. ``problem`` is why the key cannot be used."""
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
