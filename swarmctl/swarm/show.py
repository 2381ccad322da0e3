"""``swarmctl swarm show``: show a swarm's charter and this machine's node in it."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from hivemind_exp.foreign_text import foreign
from hivemind_exp.swarm.addresses import own_addresses, read_port
from hivemind_exp.swarm.charter import MILLION, CharterTask
from hivemind_exp.swarm.identity import animal_name
from swarmctl.storage.json_file import rfc3339
from swarmctl.swarm.member import Member, member
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.sentences import game
from swarmctl.terminal.views import Writer


def show(node: str | None, *, as_json: bool) -> None:
    """Print the charter of a node's swarm."""
    found = member(node, "show")
    peer, settings = found.peer, found.settings
    port = settings.port or read_port(found.files.swarm)
    addresses = () if peer is None or port is None else own_addresses(peer, port, settings)
    if as_json:
        print_json(**_fields(found, peer), port=port, addresses=list(addresses), running=found.running)
        return
    write = Writer(sys.stdout)
    for line in _lines(found, peer, addresses):
        write(line, indent=" " * 11)


def _fields(found: Member, peer: str | None) -> dict[str, Any]:
    charter = found.charter
    return {
        "node": found.name,
        "swarm": charter.id,
        "name": charter.name,
        "founder": charter.founder,
        "founder_name": animal_name(charter.founder),
        "created": rfc3339(charter.t0),
        "open": charter.is_open,
        "game": charter.game,
        "group_size": charter.group_size,
        "stage_time": charter.stage_time,
        "curriculum": charter.curriculum,
        "tasks": [_task(task) for task in charter.tasks],
        "peer": peer,
        "peer_name": None if peer is None else animal_name(peer),
    }


def _task(task: CharterTask) -> dict[str, Any]:
    fields = asdict(task) | {"weight_ppm": task.weight_ppm / MILLION, "version": task.version or None}
    return {key.removesuffix("_ppm"): value for key, value in fields.items()}


def _lines(found: Member, peer: str | None, addresses: Sequence[str]) -> Iterator[str]:
    charter = found.charter
    who = "open to anyone" if charter.is_open else "invite-only"
    yield f"Swarm {charter.name}, {who}"
    yield f"  id       {charter.id}"
    yield f"  created  {rfc3339(charter.t0)} by {animal_name(charter.founder)} ({charter.founder})"
    yield f"  game     {game(charter)}"
    for place, task in enumerate(charter.tasks):
        made = task.version or (f"{task.size:,} questions, SHA-256 {task.sha256[:12]}…" if task.sha256 else "")
        options = " ".join(f"{foreign(key)}={foreign(value)}" for key, value in task.params.items())
        several = len(charter.tasks) > 1
        share = f"{100 * task.weight_ppm / MILLION:.3g} %" if several else ""
        levels = f"{len(task.levels)} levels of difficulty" if task.levels else ""
        parts = filter(None, (share, task.label, options, made, levels))
        yield f"  {('tasks' if several else 'task') if place == 0 else '':<9}{', '.join(parts)}"
    yield f"Node {found.name}, {'running' if found.running else 'not running'}"
    if peer is None:
        yield "  peer     unknown: cannot read the node's key"
        return
    yield f"  peer     {animal_name(peer)} ({peer})"
    for place, address in enumerate(addresses):
        yield f"  {'address' if place == 0 else '':<9}{address.rpartition('/p2p/')[0]}"
