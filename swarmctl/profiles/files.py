"""``swarmctl profiles path``, ``edit`` and ``delete``: a profile as a file."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from hivemind_exp.errors import ConfigurationError
from hivemind_exp.list_command import list_command
from swarmctl.errors import Exit
from swarmctl.nodes.lookup import all_nodes
from swarmctl.paths import BUILTIN, profiles_directory, shown
from swarmctl.profiles.validate import validate_profiles
from swarmctl.settings import profile_files as profiles
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.storage.json_file import read_json
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.views import Writer

_EDITORS = ("nano", "vi")
"""Tried in this order if no editor is set."""


def print_path(name: str | None, *, as_json: bool) -> None:
    """Print the path of a profile's file, or without a name that of the directory of the user's profiles.

    Raises ConfigurationError if the profile does not exist.
    """
    path = profiles_directory() if name is None else profiles.find(name)
    if as_json:
        print_json(name=None if name is None else path.stem, path=str(path))
    else:
        print(path)


def edit(name: str) -> Exit:
    """Open one of the user's profiles in an editor, and check it afterwards. Raises ConfigurationError."""
    path = _own(name, "edited")
    found = next(filter(shutil.which, _EDITORS), None)
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or found
    if editor is None:
        message = f"no editor found; set EDITOR, or edit {shown(path)}"
        raise ConfigurationError(message, next=list_command(path))
    variable = "VISUAL" if os.environ.get("VISUAL") else "EDITOR"
    another = list_command(path) if found in (None, editor) else f"export {variable}={found}"
    try:
        status = subprocess.run([*shlex.split(editor), path], check=False).returncode
    except (OSError, ValueError) as error:  # ValueError: a quotation mark is missing
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(f"cannot start the editor {editor!r}: {reason}", next=another) from error
    if status:
        raise ConfigurationError(f"the editor {editor!r} exited with code {status}", next=another)
    code = validate_profiles(name, as_json=False)
    if code is not Exit.DONE:
        Writer(sys.stderr)(f"  try: {typed(f'swarmctl profiles edit {shlex.quote(name)}')}")
    return code


def delete(name: str, *, yes: bool, no_input: bool, as_json: bool) -> None:
    """Delete one of the user's profiles. Raises ConfigurationError if it is built in or no one can be asked."""
    path = _own(name, "deleted")
    used = [
        files.root.name
        for files in all_nodes()
        if (read_json(files.config) or {}).get("profile") in (path.stem, str(path))
    ]
    by = f" The last run of {', '.join(used)} used it." if used else ""
    Prompter(yes=yes, silent=no_input or as_json).confirm(
        f"Delete the profile {shown(path)}?{by}",
        ConfigurationError(
            f"deleting {shown(path)} needs confirmation; nothing was deleted",
            next=f"swarmctl profiles delete {shlex.quote(name)} --yes",
        ),
        "Nothing was deleted.",
    )
    with disk_errors(path, "delete"):
        path.unlink()
    if as_json:
        print_json(deleted=str(path), used_by=used)
    else:
        Writer(sys.stdout)(f"Deleted {shown(path)}.")


def _own(name: str, what: str) -> Path:
    """Return the file of one of the user's profiles. Raises ConfigurationError for a built-in one."""
    path = profiles.find(name)
    if path.parent == BUILTIN:
        known = profiles.known_profiles()
        copies = [f"my-{name}", *(f"my-{name}-{number}" for number in range(2, len(known) + 3))]
        free = next(copy for copy in copies if copy not in known)
        raise ConfigurationError(
            f"{name} is a built-in profile, which cannot be {what}; change a copy",
            next=f"swarmctl profiles new {free} --from {name}",
        )
    return path
