"""``swarmctl backup``: a running or stopped node as one file."""

import os
import shlex
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from hivemind_exp import event_files
from hivemind_exp.errors import CheckpointError, FileProblem
from hivemind_exp.hard_links import link_tree
from hivemind_exp.journal.audit import StepLog
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.spending import spent_so_far
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.trainer.checkpoints import Checkpoint
from swarmctl.nodes import archive
from swarmctl.nodes.checkpoint import checkpoint_of
from swarmctl.nodes.directory import check_formats
from swarmctl.nodes.lookup import existing
from swarmctl.paths import shown
from swarmctl.storage.disk_errors import checked_target, disk_errors
from swarmctl.storage.json_file import now, read_json
from swarmctl.storage.staging import staged
from swarmctl.terminal.command_line import command, typed
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.sentences import size
from swarmctl.terminal.views import Writer
from swarmctl.terminal.waiting import waiting
from swarmctl.version import VERSION

_WORDS = {
    "checkpoints": "newest checkpoint",
    "config.json": "settings",
    "journal.sqlite": "journal",
    "ledger.sqlite": "ledger",
    "identity.key": "identity key",
    "swarm": "records of peers and of its own addresses",
    "events.jsonl": "log",
    "secret": "choice of held-out questions",
}
_TRIES = 5
"""How often a checkpoint and a journal are copied until they fit together: a running node deletes old steps."""


def backup(name: str, file: Path, *, yes: bool, as_json: bool) -> None:
    """Write a node to ``file``: its newest checkpoint, journal, ledger, settings and identity.

    Raises ConfigurationError if the node does not exist or the file does and ``yes`` is not set, FileProblem if a part
    of the node is damaged, DiskFull.
    """
    files = existing(name)
    check_formats(files)
    target = checked_target(file, yes=yes, again=command(["backup", name, str(file), "--yes"]))
    say = Writer(sys.stderr)
    with disk_errors(target), waiting(say, f"backing up node {name}"):
        # In the node's directory, where a checkpoint costs nothing: it is linked.
        with staged(files.root / "backup") as staging:
            checkpoint = _copy(files, NodeFiles(staging))
            about = _about(files, NodeFiles(staging), checkpoint)
            archive.write(target, staging, about)
    outside = list(_outside(files))
    if as_json:
        at = None if checkpoint is None else {"step": checkpoint.step, "round": checkpoint.round}
        written = {"file": str(target), "bytes": target.stat().st_size, "files": len(about.files)}
        print_json(node=name, **written, checkpoint=at, peer_id=about.peer_id, usd=about.spent, not_included=outside)
        return
    _print(name, target, about, outside)


def _copy(files: NodeFiles, copy: NodeFiles) -> Checkpoint | None:
    """Copy a node. What it has spent is copied last, so that the copy knows of everything that its journal has."""
    for entry in archive.FILES:
        path = files.root / entry
        if path.suffix != ".sqlite" and path not in (files.spent, files.events) and path.is_file():
            shutil.copyfile(path, copy.root / entry)
    _copy_log(files, copy)
    for entry in archive.DIRECTORIES:
        if entry != "checkpoints" and (files.root / entry).is_dir():
            link_tree(files.root / entry, copy.root / entry)
    checkpoint = _copy_training(files, copy)
    if files.ledger.exists():
        _copy_database(files.ledger, copy.ledger)
    if files.spent.exists():
        shutil.copyfile(files.spent, copy.spent)
    return checkpoint


def _copy_training(files: NodeFiles, copy: NodeFiles) -> Checkpoint | None:
    """Copy the newest checkpoint, and the journal with all steps after it."""
    for _ in range(_TRIES):
        shutil.rmtree(copy.checkpoints, ignore_errors=True)
        checkpoint = checkpoint_of(files, None, [])
        try:
            if checkpoint is not None:
                link_tree(checkpoint.path, copy.root / checkpoint.path.relative_to(files.root))
        except OSError:
            if checkpoint is not None and checkpoint.path.exists():
                raise
            continue  # the node has just deleted it
        if not files.journal.exists():
            return checkpoint
        _copy_database(files.journal, copy.journal)
        with closing(StepLog(copy.journal)) as log:
            after = range(0 if checkpoint is None else checkpoint.step, log.taken())
            if set(after) <= set(log.kept()):
                return checkpoint
    raise CheckpointError(
        f"node {files.root.name} has no checkpoint that fits its journal", next=_status(files.root.name)
    )


def _copy_database(path: Path, target: Path) -> None:
    """Copy a database that may be in use. Raises FileProblem if it is damaged."""
    target.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as old:
            with closing(sqlite3.connect(target)) as new:
                old.backup(new)
                new.execute("PRAGMA journal_mode=DELETE")  # one file
    except sqlite3.Error as error:
        if "full" in str(error):
            raise OSError(28, os.strerror(28), str(target)) from error
        raise FileProblem(
            f"{shown(path)} cannot be copied: {error}", next=shlex.join(["ls", "-l", str(path)])
        ) from error


def _copy_log(files: NodeFiles, copy: NodeFiles) -> None:
    """Copy the log without the line at its end that is just being written."""
    for file in event_files.open_all(files.events):
        with file, (copy.root / Path(str(file.name)).name).open("xb") as target:
            shutil.copyfileobj(file, target)
    if copy.events.exists():
        with copy.events.open("r+b") as log:
            content_end = log.seek(0, os.SEEK_END)
            start = max(0, content_end - (1 << 20))
            log.seek(start)
            log.truncate(start + log.read().rfind(b"\n") + 1)


def _about(files: NodeFiles, copy: NodeFiles, checkpoint: Checkpoint | None) -> archive.About:
    peer = Identity.load(files.key).peer_id if files.key.exists() else None
    step, round_ = (None, None) if checkpoint is None else (checkpoint.step, checkpoint.round)
    spent = spent_so_far(copy)
    for path in (*copy.root.glob("*-wal"), *copy.root.glob("*-shm")):
        path.unlink()
    return archive.About(files.root.name, now(), VERSION, peer, round_, step, spent, archive.listed(copy.root))


def _outside(files: NodeFiles) -> Iterator[str]:
    """Yield what the node needs and its backup does not contain: the user's own question files, and the base model."""
    config: dict[str, Any] = (read_json(files.config) or {}).get("config") or {}
    yield from (str(task["path"]) for task in config.get("tasks", ()) if task.get("path"))
    model = config.get("model") or {}
    if model.get("name") not in (None, "tiny") and model.get("lora") is not None:
        yield f"model {model['name']}"


def _print(name: str, target: Path, about: archive.About, outside: list[str]) -> None:
    say = Writer(sys.stdout)
    when = "before its first checkpoint" if about.round is None else f"after round {about.round}"
    say(f"Saved node {name} ({when}) to {shown(target)}: {size(target.stat().st_size)}.")
    names = {entry.path.partition("/")[0] for entry in about.files}
    contents = [word for file, word in _WORDS.items() if file in names]
    say(f"It contains the node's {', '.join(contents[:-1])} and {contents[-1]}, but no API keys.")
    if about.peer_id:
        say("Anyone who can read it can impersonate this node. Keep it private.")
    if outside:
        say(f"Not included, and needed to train again: {', '.join(outside)}")
    say("To restore it, on this machine or another:")
    say(f"  {typed(shlex.join(['swarmctl', 'restore', str(target)]))}")


def _status(name: str) -> str:
    return f"swarmctl status {shlex.quote(name)}"
