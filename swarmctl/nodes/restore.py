"""``swarmctl restore``: a node from its backup, as the same node or as another one."""

import os
import secrets
import shlex
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from hivemind_exp.errors import ConfigurationError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.money import dollars
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.ledger import ROUNDING, Total
from hivemind_exp.offload.spending import read_total, spent_so_far, write_total
from hivemind_exp.resuming import resume_command
from hivemind_exp.run_record import RunRecord, read_record, write_record
from hivemind_exp.swarm.identity import Identity, animal_name, claim, shared_claims
from hivemind_exp.swarm.incarnation import IncarnationFile
from swarmctl.nodes import archive
from swarmctl.nodes.directory import check_formats
from swarmctl.nodes.history import has_begun
from swarmctl.nodes.lineage import known_total, lineage
from swarmctl.nodes.lookup import files_of, other_name
from swarmctl.nodes.recorded_id import descendant_of
from swarmctl.nodes.rename import free, record_name
from swarmctl.paths import nodes_directory
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.storage.json_file import read_json, write_json
from swarmctl.storage.staging import staged
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.sentences import several
from swarmctl.terminal.views import Writer
from swarmctl.terminal.waiting import waiting


def restore(file: Path, *, as_name: str | None, as_json: bool) -> None:
    """Create a node from a backup. ``as_name``: another node of this name, with a new identity; None: the same node.

    Raises FileProblem if the file is damaged or no backup, ConfigurationError if the name is taken, IdentityProblem if
    a running node uses the identity, DiskFull.
    """
    path = Path(os.path.abspath(file.expanduser()))
    say = Writer(sys.stderr)
    with archive.opened(path) as backup:
        about = backup.about
        target = _target(path, about.node, as_name)
        nodes_directory().mkdir(mode=0o700, parents=True, exist_ok=True)
        with disk_errors(target.root), staged(target.root) as staging:
            with waiting(say, f"restoring node {target.root.name}"):
                backup.extract(staging)
            copy = NodeFiles(staging)
            check_formats(copy)
            before, spent = spent_so_far(copy), _count_spending(copy)
            peer = _become_another(copy) if as_name is not None else _peer(copy)
            another = {} if as_name is None else descendant_of(copy, read_json(copy.identity) or {})
            record_name(copy, target.root.name, restored={"node": about.node, "saved": about.created}, **another)
            _keep_total(copy, spent)
            write_record(copy.run, _at_rest(read_record(copy.run), begun=has_begun(copy)))
            with ExitStack() as ends:
                if peer is not None:
                    # Until it has its name, no other node starts with its identity. Older copies on this machine are
                    # locked out from then on.
                    restored = IncarnationFile(copy.incarnation, peer).restore().restored
                    for directory in filter(None, (target.claims, shared_claims())):
                        ends.enter_context(claim(directory, peer, target.root.name, restored))
                os.rename(staging, target.root)
    if as_json:
        at = None if about.step is None else {"step": about.step, "round": about.round}
        print_json(
            node=target.root.name, backup=about.node, saved=about.created, checkpoint=at, peer_id=peer, usd=spent
        )
        return
    _print(target, about, peer, spent, another=as_name is not None)
    repo = ((read_json(target.config) or {}).get("config") or {}).get("hub", {}).get("repo")
    if repo and as_name is not None:
        say(f"warning: both nodes push to {repo}; give the new one another hub.repo.")
    if spent > before + ROUNDING:
        say(
            f"warning: the backup says that the node has spent {dollars(before)}, but this machine knows of "
            f"{dollars(spent)}, which counts."
        )


def _target(path: Path, node: str, as_name: str | None) -> NodeFiles:
    """Return the files of the node to create. Raises ConfigurationError if it exists."""

    def again(name: str) -> str:
        return shlex.join(["swarmctl", "restore", str(path), "--as", name])

    if as_name is None and os.path.lexists(files_of(node).root):
        raise ConfigurationError(
            f"node {node} already exists. Rename or delete it first, or restore the backup as another node",
            next=again(other_name(node)),
        )
    return free(as_name or node, again)


def _count_spending(copy: NodeFiles) -> float:
    """Let the restored node know of everything that it, or a copy on this machine, has spent. Return the total."""
    spent = max(spent_so_far(copy), known_total(lineage(copy)))
    _keep_total(copy, spent)
    return spent


def _keep_total(copy: NodeFiles, spent: float) -> None:
    """Record a total that would be lost with the node's id, because only the checkpoints of that id knew it."""
    if spent > spent_so_far(copy) + ROUNDING:
        saved = read_total(copy.spent)
        write_total(copy.spent, Total(spent, 0.0, 0 if saved is None else saved.requests), durable=True)


def _at_rest(saved: RunRecord | None, *, begun: bool) -> RunRecord:
    """Return the record of a node that has not run here: stopped, even if it was running when it was saved.

    A node that had finished all rounds stays finished.
    """
    stop = saved.stop if saved else None
    if stop is None or stop.get("reason") != "done":
        stop = {"t": time.time(), "event": "stop", "reason": "signal"}
    return RunRecord(begun=begun, stop=stop if begun else None)


def _peer(copy: NodeFiles) -> str | None:
    return Identity.load(copy.key).peer_id if copy.key.exists() else None


def _become_another(copy: NodeFiles) -> str | None:
    """Give a copy a new identity. Return its peer id; None if it is in no swarm."""
    for path in (copy.key, copy.incarnation, copy.consent, copy.swarm / "port"):
        path.unlink(missing_ok=True)
    if not copy.charter.exists():
        return None
    # With the same seed, both nodes would generate the same completions for their swarm.
    seed = secrets.randbelow(2**31)
    made, last = read_json(copy.identity), read_json(copy.config)
    if made is not None and last is not None:
        write_json(copy.identity, made | {"seed": seed})
        last["config"]["node"]["seed"] = seed
        last["overrides"]["node.seed"] = seed
        write_json(copy.config, last)
    return Identity.create(copy.key).peer_id


def _print(target: NodeFiles, about: archive.About, peer: str | None, spent: float, *, another: bool) -> None:
    say, called = Writer(sys.stdout), f", as node {target.root.name}" if another else ""
    when = "before its first checkpoint" if about.round is None else f"after {several(about.round, 'round')}"
    say(f"Restored node {foreign(about.node)} ({when}), saved at {foreign(about.created)}{called}.")
    if another and peer is not None:
        say(f"It has a new identity, {animal_name(peer)}, and a new seed. The other node can keep running.")
    elif peer is not None:
        say(f"It has the same identity, {animal_name(peer)}. An older copy of the node stops when both are online.")
    if spent:
        say(f"Its cap counts the {dollars(spent)} that the node has spent so far.")
    say("To resume it:")
    say(f"  {typed(resume_command(target))}")
