"""``swarmctl fork``: a new node that continues from another node's checkpoint, to try other settings."""

import os
import shlex
import shutil
import sqlite3
import sys
from contextlib import closing, nullcontext

from hivemind_exp import event_files
from hivemind_exp.errors import CheckpointError, ConfigurationError, FileProblem
from hivemind_exp.hard_links import link_tree
from hivemind_exp.list_command import list_command
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.run_record import RunRecord, write_record
from swarmctl.nodes.checkpoint import checkpoint_of
from swarmctl.nodes.lookup import readable
from swarmctl.nodes.migrations import KEPT
from swarmctl.nodes.recorded_id import descendant_of
from swarmctl.nodes.rename import at_rest, free, record_name
from swarmctl.storage import node_lock as locks
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.storage.json_file import read_json
from swarmctl.storage.staging import staged
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.views import Writer


def fork(name: str, new: str, *, at: int | None, as_json: bool) -> None:
    """Create the node ``new`` from a checkpoint of ``name``: the one after step ``at``, or the newest.

    The node may be running: its checkpoints never change, and a copy of its journal is always consistent. Raises
    ConfigurationError if the node has no checkpoint yet, starts over at every run or is in a swarm, and CheckpointError
    if it lacks this one, and FileProblem if its ``node.json`` cannot be read.
    """
    at_step = [] if at is None else ["--at", str(at)]
    files = readable(name)
    target = free(new, lambda other: shlex.join(["swarmctl", "fork", name, other, *at_step]))
    made = read_json(files.identity)
    if made is None:
        text = f"{files.identity} is damaged, so a fork of node {name} could not run"
        raise FileProblem(text, next=list_command(files.identity))
    config = (read_json(files.config) or {}).get("config") or {}
    if made.get("fresh") or (config.get("node") or {}).get("fresh"):
        raise ConfigurationError(f"node {name} starts over at every run, so it cannot be forked", next=_run(name))
    if files.charter.exists():
        raise ConfigurationError(
            f"node {name} is in a swarm, where a copy would generate the same completions; it must leave first",
            next=f"swarmctl swarm leave --node {shlex.quote(name)}",
        )
    # A node that is not running must not be started, renamed or removed meanwhile.
    rest = nullcontext() if locks.is_held(files.lock) else at_rest(files)
    with rest, disk_errors(target.root):
        checkpoint = checkpoint_of(files, at, ["swarmctl", "fork", name, new])
        if checkpoint is None:
            raise ConfigurationError(f"node {name} has no checkpoint yet", next=_run(name))
        step, round_ = checkpoint.step, checkpoint.round
        with staged(target.root) as staging:
            copy = NodeFiles(staging)
            try:
                link_tree(checkpoint.path, copy.root / checkpoint.path.relative_to(files.root))
            except OSError as error:
                if checkpoint.path.exists():
                    raise
                message = f"node {name} has just deleted checkpoint {step}: it keeps only the newest (checkpoint.keep)"
                raise CheckpointError(message, next=shlex.join(["swarmctl", "fork", name, new])) from error
            _copy(files, copy)
            _rewind(copy, str(made.get("charter")), step, round_)
            record_name(copy, new, forked={"node": name, "step": step}, **descendant_of(copy, made))
            write_record(copy.run, RunRecord(begun=True))
            os.rename(staging, target.root)
    if as_json:
        print_json(node=new, forked=name, step=step, round=round_)
        return
    write = Writer(sys.stdout)
    write(f"Node {new} continues from node {name} after round {round_} (step {step}). It has spent nothing yet.")
    if repo := ((read_json(files.config) or {}).get("config") or {}).get("hub", {}).get("repo"):
        Writer(sys.stderr)(f"warning: both nodes push to {repo}; set another hub.repo for the new one.")
    write("To run it (add options to change settings):")
    planned = (config.get("game") or {}).get("rounds") or 0
    more = f" --rounds {2 * round_}" if 0 < planned <= round_ else ""  # else the run would have nothing to do
    write(f"  {typed(_run(new))}{more}")


def _run(name: str) -> str:
    return f"swarmctl run --node {shlex.quote(name)}"


def _copy(files: NodeFiles, copy: NodeFiles) -> None:
    """Copy what a node has learned and needs, besides its checkpoint: not its identity, spending or log."""
    own = {files.lock, files.key, files.incarnation, files.spent, files.consent, files.events, files.run, files.log}
    own |= {*event_files.older_parts(files.events), files.checkpoints, files.hub, files.swarm, files.charter}
    own |= {files.root / "left", files.root / "background.log"}
    for path in files.root.iterdir():
        target = copy.root / path.relative_to(files.root)
        if path in own or path.name.startswith((".", KEPT, files.journal.name, files.ledger.name)):
            continue
        if path.is_dir():
            # These files are replaced as a whole and never changed, so links cost neither time nor space.
            link_tree(path, target)
        else:
            shutil.copy2(path, target)
    with closing(sqlite3.connect(files.journal)) as old, closing(sqlite3.connect(copy.journal)) as new:
        old.backup(new)


def _rewind(copy: NodeFiles, charter: str, step: int, round_: int) -> None:
    """Delete the steps after the checkpoint, which the new node takes in its own way."""
    from hivemind_exp.journal.journal import Journal

    with closing(Journal(copy.journal, charter)) as journal:
        journal.rewind(step, round_)
