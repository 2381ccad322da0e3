"""``swarmctl swarm peers`` and ``leaderboard``: what a node remembers of others, whose names come from their ids."""

import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from hivemind_exp.peers.records import FILE_NAME, PeerRecord, read_peers, weight
from hivemind_exp.swarm.identity import animal_name, is_peer_id
from swarmctl.storage.json_file import rfc3339
from swarmctl.swarm.member import Member, member
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.sentences import duration, percent
from swarmctl.terminal.table import print_table
from swarmctl.terminal.views import Writer

_KINDS = ("policy", "policy_text", "teacher", "relay")
_HEADINGS = ("", "peer", "id", "seen", "round", "offered", "used", "right", "refused", "weight")
_RIGHT = frozenset(_HEADINGS) - {"peer", "id"}
_NO_PROOF = "Contribution as this node verified it, not proof: names are free, and another node may count otherwise."


def peers(node: str | None, *, as_json: bool) -> None:
    """Print the peers that a node knows, the latest first."""
    found = member(node)
    rows = sorted(_rows(found), key=lambda row: (row["last_seen"] or "", row["peer"]), reverse=True)
    _print(found, rows, as_json=as_json, note=None)


def leaderboard(node: str | None, *, as_json: bool) -> None:
    """Print the peers by the groups that the node learned from, then by right answers."""
    found = member(node)
    rows = sorted(_rows(found), key=lambda row: (-row["used"], -row["correct"], row["peer"]))
    _print(found, rows, as_json=as_json, note=_NO_PROOF)


def _rows(found: Member) -> list[dict[str, Any]]:
    known = read_peers(found.files.swarm / FILE_NAME)
    return [_row(peer, record) for peer, record in known.items() if is_peer_id(peer)]


def _row(peer: str, record: PeerRecord) -> dict[str, Any]:
    return {
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
        "kind": record.kind if record.kind in _KINDS else None,
    }


def _print(found: Member, rows: Sequence[dict[str, Any]], *, as_json: bool, note: str | None) -> None:
    if as_json:
        print_json(node=found.name, swarm=found.charter.id, peers=list(rows))
        return
    write = Writer(sys.stdout)
    if not rows:
        state = "; it is not running" if not found.running else ""
        write(f"Node {found.name} has heard of no peer of swarm {found.charter.name} yet{state}.")
        return
    print_table([_cells(row, rank if note else None) for rank, row in enumerate(rows, 1)], _HEADINGS, right=_RIGHT)
    write("")
    write(note or "weight: how readily a known peer's groups are drawn; a dash is a stranger's.")


def _cells(row: dict[str, Any], rank: int | None) -> tuple[str, ...]:
    return (
        "" if rank is None else str(rank),
        row["name"],
        f"…{row['peer'][-8:]}",
        _ago(row["last_seen"]),
        "-" if row["round"] is None else f"{row['round']:,}",
        f"{row['offered']:,}",
        f"{row['used']:,}",
        "-" if row["share_correct"] is None else percent(row["share_correct"]),
        f"{row['refused'] + row['skewed']:,}",
        "-" if row["weight"] is None else f"{row['weight']:.2f}",
    )


def _ago(moment: str | None) -> str:
    if moment is None:
        return "-"
    seconds = max(0, round(time.time() - datetime.fromisoformat(moment).timestamp()))
    return f"{duration(seconds)} ago"
