"""``swarmctl status``. Only reads files, so it returns immediately and does not affect running nodes."""

import contextlib
import sys
from typing import Any

from hivemind_exp.errors import SwarmError
from hivemind_exp.node_files import NodeFiles
from swarmctl.errors import without_typed_keys
from swarmctl.nodes.lookup import no_node_yet, one_or_all, short_id
from swarmctl.storage import node_lock as locks
from swarmctl.storage.event_log import all_of, recent
from swarmctl.storage.json_file import read_json, rfc3339
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.progress import RunView
from swarmctl.terminal.safe_text import encodable, without_keys
from swarmctl.terminal.sentences import duration, gain, in_touch, outage, several
from swarmctl.terminal.views import Writer

_ENDS = {"done": "done", "signal": "stopped", "limit": "limit reached"}
_WORTH_TELLING_S = 0.1
"""A node's line mentions the time for sharing if it is at least this many seconds per round."""


def print_status(node: str | None, *, as_json: bool) -> None:
    """Print the state of one node, or of all."""
    found = [(files, *_describe(files)) for files in one_or_all(node)]
    if as_json:
        print_json(nodes=[row for _, row, _ in found])
        return
    folded = Writer(sys.stdout).folded
    lines = [_line(row, progress, _swarm(files, row["swarm"])) for files, row, progress in found]
    for line in lines or [no_node_yet()]:
        print(encodable(folded(line), sys.stdout.encoding))


def _describe(files: NodeFiles) -> tuple[dict[str, Any], RunView]:
    """Return what is known about a node, and its events so far. Unknown values are None."""
    progress = RunView()
    # These events are rare, and so may not be among the recent ones.
    for event in all_of(files.events, "eval", "peers", "start", "offload", "warning"):
        progress.apply(event)
    last = None
    for last in recent(files.events):
        progress.apply(last)
    running = locks.is_held(files.lock)
    holder = (read_json(files.lock) or {}) if running else {}
    config = (read_json(files.config) or {}).get("config") or {}
    error = None if running else progress.error
    if running:
        state = "running"
    elif progress.stop is not None:
        state = _ENDS.get(progress.stop["reason"], "failed")
    else:  # without a ``stop`` event, it was killed or never started
        state = "interrupted" if progress.round is not None else "never started"
    message = error.get("message") if error else None
    if message is not None:
        message = without_typed_keys(str(message))
    swarm = from_peers = None
    if files.charter.exists():
        from hivemind_exp.peers.records import FILE_NAME, read_peers

        swarm = (read_json(files.identity) or {}).get("swarm")
        from_peers = sum(record.used for record in read_peers(files.swarm / FILE_NAME).values())
    row = {
        "node": files.root.name,
        "state": state,
        "pid": holder.get("pid"),
        "since": holder.get("since"),
        "model": without_keys((config.get("model") or {}).get("name")),
        "round": progress.round,
        "rounds": (config.get("game") or {}).get("rounds") or None,
        "accuracy_before": progress.accuracy_before,
        "accuracy_after": progress.accuracy_after,
        "swarm": swarm,
        "peers": progress.peers if running else None,
        "groups_from_peers": from_peers,
        "share_seconds": progress.share_seconds,
        "provider_down": next(iter(progress.down), None) if running else None,
        "updated": rfc3339(last["t"]) if last else None,
        "error": {"code": error.get("code"), "message": message} if error else None,
    }
    return row, progress


def _swarm(files: NodeFiles, swarm: str | None) -> str | None:
    """Return a swarm's name and short id, or only the short id if the node's charter cannot be read."""
    if not swarm:
        return None
    from hivemind_exp.swarm.charter import LONGEST, Charter

    with contextlib.suppress(OSError, SwarmError), files.charter.open("rb") as file:
        return f"{Charter.open(file.read(2 * LONGEST), swarm).name} ({short_id(swarm)})"
    return short_id(swarm)


def _line(row: dict[str, Any], progress: RunView, swarm: str | None) -> str:
    parts = [f"{row['node']}: {row['state']}" + (f" (pid {row['pid']}, since {row['since']})" if row["pid"] else "")]
    if row["round"] is not None:
        parts.append(f"round {row['round']}" + (f" of {row['rounds']}" if row["rounds"] else ""))
    if row["accuracy_before"] is not None:
        parts.append(f"accuracy {gain(row['accuracy_before'], row['accuracy_after'])}")
    if swarm is not None:
        parts.append(f"swarm {swarm}")
        if row["peers"] is not None:
            parts.append(in_touch(row["peers"]))
        parts.append(f"{several(row['groups_from_peers'], 'group')} from peers")
        if row["share_seconds"] and row["share_seconds"] >= _WORTH_TELLING_S:
            parts.append(f"{duration(float(row['share_seconds']))} per round for sharing")
    if row["provider_down"]:
        parts.append(str(outage(progress)))
    if row["error"]:
        parts.append(str(row["error"]["message"]))
    return ", ".join(parts)
