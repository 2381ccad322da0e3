"""``swarmctl rename``: give a node another name. It keeps everything else."""

import os
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from hivemind_exp.errors import ConfigurationError, NodeConflict
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.resuming import resume_command
from swarmctl.errors import UsageError
from swarmctl.nodes.directory import held
from swarmctl.nodes.installed_service import refuse_with_service
from swarmctl.nodes.lookup import files_of, other_name, readable
from swarmctl.storage import node_lock as locks
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.storage.json_file import read_json, write_json
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.views import Writer

_LONGEST = 64
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{_LONGEST - 1}}}")


def rename(name: str, new: str, *, as_json: bool) -> None:
    """Rename a node.

    Raises NodeConflict while it runs, has a service, or if the new name is taken, UsageError for an invalid name.
    """
    files = readable(name)
    refuse_with_service(files, "renamed")
    target = free(new, lambda other: shlex.join(["swarmctl", "rename", name, other]))
    with at_rest(files), disk_errors(files.root):
        os.rename(files.root, target.root)
        record_name(target, new)
    if as_json:
        print_json(node=new, was=name)
        return
    write = Writer(sys.stdout)
    write(f"Node {name} is now {new}. To resume it:")
    write(f"  {typed(resume_command(target))}")


def free(name: str, again: Callable[[str], str]) -> NodeFiles:
    """Return the files of a new node. ``again`` returns the same command for another name.

    Raises UsageError for an invalid name, ConfigurationError if it is taken.
    """
    files = files_of(name)
    if _NAME.fullmatch(name) is None:
        valid = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("._-")[:_LONGEST] or "my-node"
        raise UsageError(
            f"invalid node name: {name!r}. Use 1 to {_LONGEST} letters, digits, '.', '_' or '-', starting with a "
            "letter or digit",
            next=again(valid),
        )
    if os.path.lexists(files.root):
        raise ConfigurationError(f"node {name} already exists", next=again(other_name(name)))
    return files


def at_rest(files: NodeFiles) -> AbstractContextManager[int]:
    """Keep a node from being started during the block. Raises NodeConflict if it is running."""
    name = files.root.name
    if locks.is_held(files.lock):
        raise NodeConflict(f"node {name} is running; stop it first", next=f"swarmctl stop {shlex.quote(name)}")
    return held(files, lambda _: f"swarmctl stop {shlex.quote(name)}")


def record_name(files: NodeFiles, name: str, **more: Any) -> None:
    """Write a new name into the node's files. Only the directory's name counts for finding the node."""
    if (made := read_json(files.identity)) is not None:
        write_json(files.identity, made | {"name": name} | more)
    if (last := read_json(files.config)) is not None and isinstance(last.get("config"), dict):
        last["config"]["node"] = {**(last["config"].get("node") or {}), "name": name}
        write_json(files.config, last)
