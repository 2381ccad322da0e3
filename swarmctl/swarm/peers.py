"""``swarmctl swarm peers`` and ``leaderboard``: a node's records of its peers. Names are derived from peer ids."""

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from hivemind_exp.node_files import NodeFiles
from hivemind_exp.peers.bundle import KINDS
from hivemind_exp.peers.records import FILE_NAME, KNOWN_AFTER, SAVE_EVERY_S, read_peers, weight
from hivemind_exp.swarm.identity import animal_name, is_peer_id
from swarmctl.storage.event_log import all_of
from swarmctl.storage.json_file import rfc3339
from swarmctl.swarm.member import Member, member
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.sentences import duration, percent, several
from swarmctl.terminal.table import or_dash, table_lines
from swarmctl.terminal.views import Writer

_HEADINGS = ("", "peer", "id", "seen", "round", "offered", "used", "correct", "rejected", "weight")
_RIGHT = frozenset(_HEADINGS) - {"peer", "id"}
_NARROW = ("weight", "rejected", "offered", "id", "round", "correct")
_NO_PROOF = "Counted by this node, and not proof: anyone can create identities, and other nodes may count differently."


def peers(node: str | None, *, as_json: bool) -> None:
    """Print the peers that a node knows, most recently seen first."""
    found = member(node, "peers")
    rows = sorted(known_peers(found.files), key=lambda row: (row["last_seen"] or "", row["peer"]), reverse=True)
    _print(found, rows, ranked=False, as_json=as_json)


def leaderboard(node: str | None, *, as_json: bool) -> None:
    """Print peers, ranked by the groups that the node learned from, then by correct answers."""
    found = member(node, "leaderboard")
    rows = by_contribution(known_peers(found.files))
    _print(found, rows, ranked=True, as_json=as_json)


def by_contribution(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return peers ranked by the groups that the node learned from, then by correct answers."""
    return sorted(rows, key=lambda row: (-row["used"], -row["correct"], row["peer"]))


def known_peers(files: NodeFiles) -> list[dict[str, Any]]:
    """Return a node's records of its peers, as ``peers --json`` prints them."""
    return [
        {
            "peer": peer,
            "name": animal_name(peer),
            "first_seen": rfc3339(record.first_seen) if record.first_seen else None,
            "last_seen": rfc3339(record.last_seen) if record.last_seen else None,
            "round": record.round if record.round >= 0 else None,
            "offered": record.offered,
            "used": record.used,
            "verified": record.verified,
            "correct": record.correct,
            "share_correct": record.correct / record.verified if record.verified else None,
            "skewed": record.skewed,
            "refused": record.refused,
            "weight": round(weight(record.standing), 3) if record.standing.known else None,
            "kind": record.kind if record.kind in KINDS else None,
        }
        for peer, record in read_peers(files.swarm / FILE_NAME).items()
        if is_peer_id(peer)
    ]


def _print(found: Member, rows: Sequence[dict[str, Any]], *, ranked: bool, as_json: bool) -> None:
    if as_json:
        at = _saved_at(found.files)
        print_json(node=found.name, swarm=found.charter.id, saved=None if at is None else rfc3339(at), peers=rows)
        return
    write = Writer(sys.stdout)
    if not rows:
        heard = [event.get("peers") or 0 for event in all_of(found.files.events, "peers")] if found.running else []
        state = f" It is in touch with {several(heard[-1], 'peer')}." if heard and heard[-1] else ""
        state = state or ("" if found.running else " It is not running.")
        write(f"No peer in swarm {found.charter.name} has shared rollouts with node {found.name} yet.{state}")
        return
    ranks = [str(rank) if ranked else "" for rank in range(1, len(rows) + 1)]
    cells = [[rank, *_cells(row)] for rank, row in zip(ranks, rows, strict=True)]
    lines = table_lines(cells, _HEADINGS, right=_RIGHT, droppable=_NARROW)
    for line in lines:
        write(line)
    if ranked:
        write("")
        write(_NO_PROOF)
    elif any("weight" in line.split() for line in lines):
        write("")
        write(f"weight: how likely this node is to use the peer's groups (-: fewer than {KNOWN_AFTER} verified yet).")
    if (at := _saved_at(found.files)) is not None:
        state = f"it does so about every {SAVE_EVERY_S:.0f} seconds" if found.running else "it is not running"
        Writer(sys.stderr)(f"Saved by node {found.name} {_ago(rfc3339(at))}; {state}.")


def _saved_at(files: NodeFiles) -> float | None:
    """Return when the node last saved its records of peers, in Unix seconds; None if it never did."""
    with suppress(OSError):
        return (files.swarm / FILE_NAME).stat().st_mtime
    return None


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["name"],
        f"…{row['peer'][-8:]}",
        or_dash(row["last_seen"], _ago),
        or_dash(row["round"]),
        f"{row['offered']:,}",
        f"{row['used']:,}",
        or_dash(row["share_correct"], percent),
        f"{row['refused'] + row['skewed']:,}",
        or_dash(row["weight"], "{:.2f}".format),
    )


def _ago(moment: str) -> str:
    return f"{duration(max(0, round(time.time() - datetime.fromisoformat(moment).timestamp())))} ago"
