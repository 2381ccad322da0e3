"""The command to suggest when a file cannot be used."""

import os
import shlex
from pathlib import Path


def list_command(path: Path) -> str:
    """Return the command that lists a file, or, if it does not exist, the nearest directory above it."""
    near = path if os.path.lexists(path) else next(each for each in path.absolute().parents if each.is_dir())
    name = str(near)
    return shlex.join(["ls", "-l", f"./{name}" if name.startswith("-") else name])  # else an option
