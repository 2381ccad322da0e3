"""What a node and its copies on this machine have spent, so that no restore lowers a total.

Copies of a node share what was drawn when it was created. When a node is deleted, its total stays in a small file.
"""

import contextlib
import hashlib
import json
from pathlib import Path

from hivemind_exp.errors import NodeError
from hivemind_exp.finite_numbers import is_finite
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.spending import spent_so_far
from swarmctl.nodes.lookup import all_nodes
from swarmctl.paths import nodes_directory
from swarmctl.storage.json_file import read_json, write_json

_DIRECTORY = ".spent"


def lineage(files: NodeFiles) -> str:
    """Return what a node has in common with its copies, but not with its forks (hex)."""
    made = read_json(files.identity) or {}
    with contextlib.suppress(OSError):
        made["secret"] = hashlib.sha256(files.secret_file.read_bytes()).hexdigest()
    drawn = [made.get(key) for key in ("secret", "created", "charter", "forked")]
    return hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()


def remember(files: NodeFiles) -> None:
    """Keep a node's total after the node is deleted. Raises OSError."""
    with contextlib.suppress(NodeError):  # a damaged ledger, with which a node can be deleted, too
        kept, total = _kept(lineage(files)), spent_so_far(files)
        if total > _amount(kept):
            kept.parent.mkdir(mode=0o700, exist_ok=True)
            write_json(kept, {"schema": 1, "usd": total})


def known_total(wanted: str) -> float:
    """Return the highest total in US dollars of a node and its copies on this machine, deleted ones included."""
    totals = [_amount(_kept(wanted))]
    for files in all_nodes():
        if lineage(files) == wanted:
            with contextlib.suppress(NodeError):
                totals.append(spent_so_far(files))
    return max(totals)


def _kept(lineage_: str) -> Path:
    return nodes_directory() / _DIRECTORY / f"{lineage_[:32]}.json"


def _amount(path: Path) -> float:
    usd = (read_json(path) or {}).get("usd")
    return float(usd) if usd is not None and is_finite(usd) else 0.0
