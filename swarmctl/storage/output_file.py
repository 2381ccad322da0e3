"""Files that a command makes where its user says: over another only with a yes, and never over what is no file."""

import shlex
from pathlib import Path

from hivemind_exp.errors import ConfigurationError
from swarmctl.paths import shown


def checked_target(path: Path, *, yes: bool, again: str) -> Path:
    """Return where a file really goes, links followed.

    Raises ConfigurationError where there is a file already, without ``yes`` (``again`` is the command with it), and
    where there is something else than a file: a device or a pipe must not be replaced.
    """
    target = path.expanduser().resolve()
    if target.exists() and not target.is_file():
        kind = "a directory" if target.is_dir() else "no file"
        raise ConfigurationError(f"{shown(target)} is {kind}", next=f"ls -ld {shlex.quote(str(target))}")
    if target.exists() and not yes:
        raise ConfigurationError(f"there is a file {shown(target)} already", next=again)
    return target
