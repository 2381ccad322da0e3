"""``swarmctl stop``: ask running nodes to save and stop, and wait until they have."""

import fcntl
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from hivemind_exp.errors import ConfigurationError, NodeError
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.run_record import RunRecord, read_record
from swarmctl.errors import UsageError
from swarmctl.nodes.frozen import frozen
from swarmctl.nodes.history import rounds_at_rest
from swarmctl.nodes.lookup import all_nodes, existing, latest
from swarmctl.paths import shown
from swarmctl.storage import node_lock as locks
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.sentences import several
from swarmctl.terminal.views import Writer
from swarmctl.terminal.waiting import waiting


def stop(names: Sequence[str], *, every: bool, as_json: bool) -> None:
    """Stop the named nodes, every running one, or without a name the only running one.

    Raises UsageError if it is not clear which nodes are meant, NodeError if a node's process cannot be signaled.
    """
    rows = stop_all(choose(names, every=every, command="stop"))
    if as_json:
        print_json(nodes=rows)
        return
    write = Writer(sys.stdout)
    for row in rows:
        write(_sentence(row))
    if not rows:
        write("No node is running.")


def stop_all(chosen: Sequence[NodeFiles]) -> list[dict[str, Any]]:
    """Ask all nodes to stop, wait for them, and return a row for each: its name, whether it ran, and what it saved."""
    running = [files for files in chosen if ask_to_stop(files)]
    say = Writer(sys.stderr)
    for files in running:
        holder = locks.holder(files.lock)
        for _, sentence in frozen(None, holder.get("trainer")):
            say(f"warning: {sentence}")
        with waiting(say, f"waiting for node {files.root.name} to save and stop"):
            _wait(files)
    return [_row(files, was_running=files in running) for files in chosen]


def choose(names: Sequence[str], *, every: bool, command: str) -> list[NodeFiles]:
    """Return the named nodes, every running one, or without a name the only running one, if there is one.

    Raises UsageError if it is not clear which nodes ``swarmctl COMMAND`` is for.
    """
    if names and every:
        raise UsageError("name nodes or use --all, not both", next=f"swarmctl {command} --help")
    if names:
        return [existing(name) for name in dict.fromkeys(names)]
    running = [files for files in all_nodes() if locks.is_held(files.lock)]
    if len(running) > 1 and not every:
        found = ", ".join(files.root.name for files in running)
        raise UsageError(
            f"{len(running)} nodes are running ({found}); name one, or use --all",
            next=f"swarmctl {command} {shlex.quote(latest(running).root.name)}",
        )
    return running


def ask_to_stop(files: NodeFiles) -> bool:
    """Send SIGTERM to the node's supervisor, or else to its trainer; return whether the node was running.

    A process is signaled only if it started when the lock file says, so never one that has a dead holder's pid.
    """
    if not locks.is_held(files.lock):
        return False
    holder = locks.holder(files.lock)
    if holder["elsewhere"]:
        raise NodeError(
            f"node {files.root.name} runs in a container or on another machine; stop it there",
            next=shlex.join(["swarmctl", "status", files.root.name]),
        )
    for key, started in (("pid", "started"), ("trainer", "trainer_started")):
        pid = holder[key]
        try:
            process = psutil.Process(pid) if pid is not None else None
            if process is not None and _is_holder(process, holder.get(started), files.lock):
                process.send_signal(signal.SIGTERM)
                # One that Ctrl-Z has suspended would never receive the signal. The others must not be continued: their
                # live view would be drawn once more, below what it has drawn.
                if key == "pid" and process.status() == psutil.STATUS_STOPPED:
                    process.send_signal(signal.SIGCONT)
                return True
        except psutil.NoSuchProcess:  # also if it is a zombie
            continue
        except psutil.AccessDenied as error:
            name = files.root.name
            raise NodeError(f"another user runs node {name} (pid {pid})", next=f"sudo kill {pid}") from error
    if locks.is_held(files.lock):
        raise ConfigurationError(
            f"node {files.root.name} is running, but {shown(files.lock)} does not name its process",
            next=f"fuser {files.lock}",
        )
    return True  # it has just ended


def _is_holder(process: psutil.Process, started: object, lock: Path) -> bool:
    """Whether a process is the one that the lock file names. Earlier versions did not write when it started.

    Then the process must have the lock file open, which only root can see.
    """
    if started is not None:
        return started == locks.start_of(process.pid)
    return any(os.path.realpath(lock) == os.path.realpath(found.path) for found in process.open_files())


def _wait(files: NodeFiles) -> None:
    """Return once no process has the node's lock."""
    with suppress(FileNotFoundError), files.lock.open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)


def _row(files: NodeFiles, *, was_running: bool) -> dict[str, Any]:
    start = (read_record(files.run) or RunRecord()).start or {}
    saved = sorted(files.checkpoints.glob("[0-9]*"))
    return {
        "node": files.root.name,
        "was_running": was_running,
        "round": rounds_at_rest(files),
        "rounds": start.get("rounds") or None,  # planned; None: until it is stopped
        "checkpoint": shown(saved[-1]) if saved else None,
    }


def _sentence(row: dict[str, Any]) -> str:
    node, rounds = row["node"], row["round"]
    if not row["was_running"]:
        return f"Node {node} is not running."
    if not rounds and row["checkpoint"]:
        return f"Stopped node {node} before the first round ended. Saved: checkpoint {row['checkpoint']}."
    if not rounds:
        return f"Stopped node {node}. Nothing to save: no round finished."
    where = f", and checkpoint {row['checkpoint']}" if row["checkpoint"] else ""
    total = row["rounds"]
    finished = f"{rounds:,} of {several(total, 'round')}" if total else several(rounds, "round")
    return f"Stopped node {node} after {finished}. Saved: the journal with every round{where}."
