"""``swarmctl swarm list``: the swarms that this machine's nodes are in."""

import sys
from typing import Any

from hivemind_exp.errors import SwarmError
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.peers.records import FILE_NAME, read_peers
from swarmctl.nodes.lookup import all_nodes, short_id
from swarmctl.storage import node_lock as locks
from swarmctl.storage.json_file import read_json
from swarmctl.swarm.member import member
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.sentences import game, several
from swarmctl.terminal.table import or_dash, print_table
from swarmctl.terminal.views import Writer

_HEADINGS = ("swarm", "id", "node", "state", "known peers", "who can join", "tasks and game")
_MOST_TASKS = 3
"""A mixture of more tasks is only counted."""
_NARROW = ("who can join", "tasks and game", "id", "known peers")


def list_swarms(*, as_json: bool) -> None:
    """Print a row for each node that is in a swarm. A charter that cannot be read is unknown, with a warning."""
    rows = [_row(files) for files in all_nodes() if files.charter.exists()]
    if as_json:
        print_json(swarms=rows)
        return
    if not rows:
        write = Writer(sys.stdout)
        write("No node on this machine is in a swarm. To create a swarm, or to join one:")
        write(f"  {typed('swarmctl swarm new NAME')}")
        write(f"  {typed('swarmctl swarm join INVITATION')}")
        return
    print_table([_cells(row) for row in rows], _HEADINGS, right={"known peers"}, droppable=_NARROW)


def _row(files: NodeFiles) -> dict[str, Any]:
    name = files.root.name
    row: dict[str, Any] = {
        "swarm": (read_json(files.identity) or {}).get("swarm"),
        "name": None,
        "node": name,
        "running": locks.is_held(files.lock),
        "peers": len(read_peers(files.swarm / FILE_NAME)),
        "open": None,
        "game": None,
        "tasks": None,
        "description": None,
    }
    try:
        charter = member(name, "show").charter
    except SwarmError as error:
        Writer(sys.stderr)(f"warning: {error.message}")
        return row
    return row | {
        "swarm": charter.id,
        "name": charter.name,
        "open": charter.is_open,
        "game": charter.game,
        "tasks": [task.label for task in charter.tasks],
        "description": game(charter),
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    labels = row["tasks"] or ()
    tasks = ", ".join(labels) if len(labels) <= _MOST_TASKS else several(len(labels), "task")
    return (
        or_dash(row["name"], str),
        or_dash(row["swarm"], short_id),
        row["node"],
        "running" if row["running"] else "not running",
        f"{row['peers']:,}",
        or_dash(row["open"], lambda is_open: "anyone" if is_open else "invited"),
        f"{tasks}; {row['description']}" if labels else "-",
    )
