"""The operator's files that a node learns from. Their digests are kept, so that changes are noticed."""

import hashlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hivemind_exp.config import OWN_FILE, Config
from hivemind_exp.errors import NodeConflict
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.families.python_file import used_files
from hivemind_exp.tasks.installed import origin
from hivemind_exp.tasks.registry import is_own_code
from swarmctl.paths import shown
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.storage.hub_cache import local_directory
from swarmctl.storage.json_file import read_json, write_json

_WHOLE = 64 * 2**20
"""Of larger files, such as weights, only the size and the first bytes are compared."""


def check_inputs(files: NodeFiles, config: Config) -> None:
    """Raise NodeConflict if questions, a task's code or a local model have changed since the node first used them."""
    known = (read_json(files.inputs) or {}).get("digests") or {}
    found = {str(path): digest_of(path) for path in _inputs(config) if path.exists()} | _packages(config)
    for name, digest in found.items():
        if known.get(name, digest) != digest:
            what = shown(Path(name)) if os.path.isabs(name) else f"the {name} ({known[name]}, now {digest})"
            raise NodeConflict(
                f"{what} has changed since node {files.root.name} first used it. Undo the change, or "
                f"accept it: delete {files.inputs.name} and run again",
                next=f"rm {shlex.quote(str(files.inputs))}",
            )
    if not found.keys() <= known.keys():
        with disk_errors(files.root):
            write_json(files.inputs, {"schema": 1, "digests": {**known, **found}})


def _inputs(config: Config) -> Iterator[Path]:
    for task in config.tasks:
        if task.path is not None:
            yield (path := Path(task.path).expanduser().absolute())
            if task.name == OWN_FILE:
                yield from used_files(path)
    model = local_directory(config.model.name)
    if model is not None and config.offload.counts_as is not Kind.RELAY:
        yield model.absolute()


def _packages(config: Config) -> dict[str, str]:
    """Return the versions of the installed packages that the tasks come from."""
    own = [task.name for task in config.tasks if task.name != OWN_FILE and is_own_code(task.name)]
    return {f"package of task {name}": origin(name) for name in own}


def digest_of(path: Path) -> str:
    """Return the SHA-256 (hex) of a file, or of a directory's files with their names. Raises NodeError."""
    found = hashlib.sha256()
    with disk_errors(path, "read"):
        if path.is_file():
            _add(found, path)
        for directory, names, members in os.walk(path):
            names[:] = sorted(name for name in names if not name.startswith("."))
            for name in sorted(member for member in members if not member.startswith(".")):
                file = Path(directory, name)
                if file.is_file():
                    found.update(os.fsencode(f"{file.relative_to(path)}\0{file.stat().st_size}\0"))
                    _add(found, file)
    return found.hexdigest()


def _add(found: Any, file: Path) -> None:
    with file.open("rb") as opened:
        found.update(opened.read(_WHOLE))


def same_place(made: object, wanted: object) -> bool:
    """Whether two recorded paths are the same. Older versions recorded relative ones, without the directory."""
    if made == wanted:
        return True
    if not isinstance(made, str) or not isinstance(wanted, str) or os.path.isabs(made) or not os.path.isabs(wanted):
        return False
    parts = Path(os.path.normpath(made)).parts
    return Path(wanted).parts[-len(parts) :] == parts
