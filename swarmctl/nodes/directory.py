"""Node directories: created atomically, locked while the node runs, and tied to one model and its tasks."""

import contextlib
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hivemind_exp.config import Config, charter_id
from hivemind_exp.errors import NodeConflict
from hivemind_exp.formats import FORMAT, NODE_FORMAT, check_number
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.node_id import new_id
from swarmctl.nodes.frozen import frozen
from swarmctl.nodes.history import has_begun
from swarmctl.nodes.inputs import check_inputs, same_place
from swarmctl.nodes.lookup import check_node_format, files_of, other_name, short_id
from swarmctl.nodes.migrations import upgrade_and_tell
from swarmctl.nodes.recorded_id import recorded_id
from swarmctl.nodes.start_over import finish, set_aside
from swarmctl.paths import shown
from swarmctl.storage import node_lock as locks
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.storage.json_file import now, read_json, write_json
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.safe_text import without_keys
from swarmctl.version import VERSION


def identity(config: Config) -> dict[str, Any]:
    """Return what is fixed when a node is created: its settings, and an id that no other node has."""
    lora = config.model.lora
    return {
        "schema": FORMAT,
        "format": NODE_FORMAT,
        "name": config.node.name,
        "id": new_id(),
        "model": {"name": config.model.name, "revision": config.model.revision},
        "adapter": lora.model_dump(mode="json", exclude={"dropout"}) if lora else None,
        "tasks": [task.model_dump(mode="json", exclude={"max_turns"}) for task in config.tasks],
        "seed": config.node.seed,
        "charter": charter_id(config),
        "swarm": config.swarm.charter,
        "created": now(),
        "version": VERSION,
    }


Retry = Callable[[str], str]
"""Returns the same command for another node."""


@dataclass(frozen=True, slots=True)
class Node:
    """A locked node directory."""

    files: NodeFiles
    lock: int
    """Descriptor that holds the lock. The trainer inherits it, so the lock outlives this process."""
    resumes: bool
    """Whether this run resumes an earlier one."""
    created: bool
    """Whether this run created the directory."""
    starts_over: bool
    """Whether this run replaces an earlier one, which is set aside until this one has started."""

    @property
    def name(self) -> str:
        return self.files.root.name


@contextlib.contextmanager
def opened(config: Config, retry: Retry) -> Iterator[Node]:
    """Create or open the configured node's directory and lock it until the end of the block.

    If the node starts over, its last run is set aside. If no trainer has started by the end of the block, it is put
    back.
    Raises NodeConflict if the node is running, or was created with other fixed settings.
    """
    files = files_of(config.node.name)
    with disk_errors(files.root):
        created = _make(files, config, retry)
    with held(files, retry) as lock:
        with disk_errors(files.root):
            finish(files)  # a run that was killed while it started over may have left the last one aside
        check_identity(files, config, retry)
        if not created:
            upgrade_and_tell(files)
        fresh, begun = starts_over(files, config), has_begun(files)
        if fresh or not begun:
            files.inputs.unlink(missing_ok=True)
        check_inputs(files, config)
        with disk_errors(files.root):
            if fresh:
                set_aside(files)
            made = read_json(files.identity) or {}
            if fresh or not begun:
                # The journal of a node that has not begun may name it already.
                kept = {} if fresh else {key: made[key] for key in ("id", "ancestors") if key in made}
                write_json(files.identity, identity(config) | kept)
            elif "id" not in made:
                write_json(files.identity, made | {"id": recorded_id(files) or new_id()})
        try:
            yield Node(files, lock, resumes=begun and not fresh, created=created, starts_over=begun and fresh)
        finally:
            with contextlib.suppress(OSError):  # then the next run does this
                finish(files)


@contextlib.contextmanager
def held(files: NodeFiles, retry: Retry) -> Iterator[int]:
    """Lock a node's directory until the end of the block; yield the lock's descriptor.

    Does not check the node's fixed settings. Raises NodeConflict if the node is running.
    """
    with disk_errors(files.root):
        lock = os.open(files.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not locks.acquire(lock):
            raise _running(files, retry)
        locks.write_holder(lock, None)
        yield lock
    finally:
        os.close(lock)


def starts_over(files: NodeFiles, config: Config) -> bool:
    """Whether a run with this configuration replaces what the node has learned."""
    # The first version created nodes that start over at every run, and said so in their node.json.
    return config.node.fresh or bool((read_json(files.identity) or {}).get("fresh"))


def _make(files: NodeFiles, config: Config, retry: Retry) -> bool:
    """Create the directory with its ``node.json`` atomically. Return whether it did not exist before."""
    if files.root.exists():
        check_identity(files, config, retry)
        return False
    parent = files.root.parent
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    prefix = f".{files.root.name}."
    with tempfile.TemporaryDirectory(dir=parent, prefix=prefix, ignore_cleanup_errors=True) as staging:  # mode 0700
        try:
            write_json(NodeFiles(Path(staging)).identity, identity(config))
            os.rename(staging, files.root)
        except OSError:
            if not files.root.is_dir():
                raise
            return False  # another process created it meanwhile
    return True


def _running(files: NodeFiles, retry: Retry) -> NodeConflict:
    holder, name = locks.holder(files.lock), files.root.name
    pid = holder["pid"]
    for stopped, sentence in frozen(pid, holder["trainer"]):
        return NodeConflict(f"node {name} is already running; {sentence}", next=f"kill -CONT {stopped}")
    if pid is None and holder["trainer"] is not None:
        who = f"its supervisor has exited; the trainer, pid {holder['trainer']}, will stop shortly"
        return NodeConflict(f"node {name} is already running ({who})", next=retry(name))
    since = holder.get("since", "unknown")
    if holder["elsewhere"]:
        return NodeConflict(
            f"node {name} is already running in a container or on another machine (since {since}). To run another "
            "node, use another --node",
            next=f"swarmctl status {shlex.quote(name)}",
        )
    who = f"pid {pid or 'unknown'}, since {since}"
    stop = typed(f"swarmctl stop {shlex.quote(name)}")
    return NodeConflict(
        f"node {name} is already running ({who}). To stop it: `{stop}`. To run another node, use another --node",
        next=f"swarmctl status {shlex.quote(name)}",
    )


def check_free(files: NodeFiles, retry: Retry) -> None:
    """Raise NodeConflict if the node is running. Changes nothing."""
    if locks.is_held(files.lock):
        raise _running(files, retry)


def check_identity(files: NodeFiles, config: Config, retry: Retry) -> None:
    """Raise NodeConflict if the directory belongs to no node, or to one with other fixed settings.

    Raises FileProblem if a newer version used the node.
    """
    if not files.root.exists():
        return
    name, made, wanted = files.root.name, read_json(files.identity), identity(config)

    def conflict(problem: str) -> NodeConflict:
        return NodeConflict(problem, next=retry(other_name(name)))

    check_formats(files)
    if made is None:
        raise conflict(f"{shown(files.root)} is not a node's directory: it has no readable {files.identity.name}")
    check_swarm(files, config, retry)
    if starts_over(files, config) or not has_begun(files):
        return
    try:
        different = [
            f"{word} {_brief(key, made)}, now {_brief(key, wanted)}"
            for key, word in {"model": "model", "adapter": "LoRA adapter", "tasks": "tasks", "seed": "seed"}.items()
            if not _equal(made.get(key), wanted[key])
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise conflict(f"{shown(files.identity)} is damaged") from error
    if different:
        raise conflict(f"node {name} was created with other settings: " + "; ".join(different))


def _equal(made: Any, wanted: Any) -> bool:
    """Whether two fixed settings are the same. The spelling of a path does not matter."""
    if isinstance(made, list) and isinstance(wanted, list) and len(made) == len(wanted):
        return all(map(_equal, made, wanted))
    if isinstance(made, dict) and isinstance(wanted, dict) and made.keys() == wanted.keys():
        return all(
            same_place(made[key], wanted[key]) if key in ("path", "name") else made[key] == wanted[key] for key in made
        )
    return bool(made == wanted)


def check_formats(files: NodeFiles) -> None:
    """Raise FileProblem if a newer version wrote any of the node's files. The trainer checks its databases itself."""
    check_node_format(files)
    for path in (
        *files.root.glob("*.json"),
        *files.swarm.glob("*.json"),
        *files.swarm.glob("port*"),
        *files.hub.glob("*.json"),
        *files.checkpoints.glob("[0-9]*/*.json"),
    ):
        check_number(path, (read_json(path) or {}).get("schema"))


def check_swarm(files: NodeFiles, config: Config, retry: Retry) -> None:
    """Raise NodeConflict if a node would join a swarm other than the one it is in or has learned in.

    A node that has left its swarm may continue alone or return.
    """
    made = read_json(files.identity)
    if made is None or made.get("fresh") or not (files.charter.exists() or has_begun(files)):
        return
    name, swarm, wanted = files.root.name, made.get("swarm"), config.swarm.charter
    if swarm == wanted or (wanted is None and made.get("left") is not None):
        return
    following = retry(other_name(name))
    if not isinstance(swarm, str):
        message = f"node {name} has already trained alone; only a new node can join a swarm"
    elif wanted is None:
        message = f"node {name} is in swarm {short_id(swarm)}; it must leave the swarm before it can continue alone"
        following = f"swarmctl swarm leave --node {shlex.quote(name)}"
    else:
        message = (
            f"node {name} is in swarm {short_id(swarm)}, but the invitation is for {short_id(wanted)}; a node "
            "cannot change to another swarm"
        )
    raise NodeConflict(message, next=following)


def _brief(key: str, identity: dict[str, Any]) -> str:
    value = without_keys(identity.get(key))
    if key == "tasks":
        # Mixtures with the same task names can differ in the other keys, so these are shown, too.
        return ", ".join(f"{task.pop('name')} {_short(task)}" for task in value)
    if key == "model":
        return str(value["name"]) + (f" at {value['revision']}" if value["revision"] else "")
    if key == "adapter":
        return _short(value) if value else "none"
    return str(value)


def _short(table: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in table.items() if value not in (None, {}))
