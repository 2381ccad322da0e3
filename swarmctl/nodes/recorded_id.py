"""The id of a node whose ``node.json`` has none, or no longer, because the node went back to an older version."""

import contextlib
import sqlite3
from contextlib import closing
from typing import Any

from hivemind_exp.node_files import SEAL, NodeFiles
from hivemind_exp.node_id import descendant, read_id
from swarmctl.storage.json_file import read_json


def recorded_id(files: NodeFiles) -> str | None:
    """Return the id that a node's newest checkpoint with an id names, or else its journal; None if none does.

    Checkpoints that the older version wrote name none.
    """
    for path in sorted(files.checkpoints.glob(f"[0-9]*/{SEAL}"), reverse=True):
        if (found := read_id((read_json(path) or {}).get("node"))) is not None:
            return found.id
    if files.journal.exists():
        where = f"{files.journal.absolute().as_uri()}?mode=ro"
        with contextlib.suppress(sqlite3.Error), closing(sqlite3.connect(where, uri=True)) as db:
            return next((str(each) for (each,) in db.execute("SELECT id FROM owner")), None)
    return None


def descendant_of(files: NodeFiles, made: dict[str, Any]) -> dict[str, Any]:
    """Return what the ``node.json`` of a fork, or of another node from a backup, has instead of ``made``'s.

    ``files``: the new node's, which name the node that it comes from.
    """
    before = {} if "id" in made else {"id": recorded_id(files)}
    return descendant(made | {name: value for name, value in before.items() if value is not None})
