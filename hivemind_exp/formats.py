"""Format numbers of stored files, so that no version misreads a newer file. Files without a number are older."""

import json
import os
import shlex
import sqlite3
from errno import EEXIST, EISDIR, ENOTDIR
from pathlib import Path
from typing import Any

from hivemind_exp.errors import FileProblem, NewerFormat
from hivemind_exp.list_command import list_command
from hivemind_exp.update import update_command

FORMAT = 1
"""The format of every file that this version writes: ``schema`` in JSON, ``user_version`` in SQLite."""
NODE_FORMAT = 3
"""The format of a node's directory as a whole: ``format`` in its ``node.json``. Older nodes have none, which is 0."""
CHECKED_BYTES = 256 << 20
"""The largest database that is checked in full when it is opened: about a second."""


def check_number(path: Path, number: object, newest: int = FORMAT) -> None:
    """Raise ``NewerFormat`` if a file has a format that this version does not know. None: an older file."""
    if number is not None and number not in range(newest + 1):
        raise NewerFormat(
            f"{path} has format {number}, from a newer version of swarmctl; this version reads formats up to {newest}",
            next=update_command(),
        )


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None if there is no such file.

    Raises ``FileProblem`` if it cannot be read or is damaged, ``NewerFormat`` if a newer version wrote it.
    """
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        value = error
    if not isinstance(value, dict):
        reason = (value.strerror if isinstance(value, OSError) else None) or "it is not a JSON object"
        raise FileProblem(f"{path} is damaged: {reason}", next=shlex.join(["ls", "-l", str(path)]))
    check_number(path, value.get("schema"))
    return value


def check_database(db: sqlite3.Connection, path: Path) -> None:
    """Check a database's format number, and set it in a new or older one.

    Raises ``NewerFormat``, and ``sqlite3.Error``.
    """
    (number,) = db.execute("PRAGMA user_version").fetchone()
    check_number(path, number)
    if number != FORMAT:
        db.execute(f"PRAGMA user_version={FORMAT}")


def check_pages(db: sqlite3.Connection, path: Path) -> None:
    """Raise ``sqlite3.DatabaseError`` if a database is damaged. A very large one is not read in full."""
    if path.stat().st_size <= CHECKED_BYTES and (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise sqlite3.DatabaseError(f"malformed: {found}")


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error means that the file is damaged, rather than unreadable or unwritable at the moment."""
    return any(word in str(error) for word in ("not a database", "malformed"))


def set_aside(path: Path) -> str:
    """Return the command that moves a damaged database aside, with its ``-wal`` and ``-shm`` files."""
    aside = shlex.quote(str(path.parent / "damaged"))
    return f"mkdir -p {aside} && mv {shlex.quote(str(path))}* {aside}"


def explain_obstacle(error: OSError) -> FileProblem | None:
    """Return the error for a directory where a file is needed, or the reverse; None for any other OSError."""
    name = error.filename2 or error.filename
    if error.errno not in (EISDIR, ENOTDIR, EEXIST) or not isinstance(name, str | os.PathLike):
        return None
    path = Path(name)
    found = next((each for each in (path, *path.parents) if os.path.lexists(each)), path)
    if found.is_dir() != (error.errno == EISDIR):
        return None
    what = "a directory, but a file is needed there" if found.is_dir() else "not a directory, but one is needed there"
    if found.exists() and not found.is_dir() and not found.is_file():  # a device, which must stay where it is
        return FileProblem(f"{found} is {what}", next=list_command(found))
    aside = next(each for n in range(1, 1000) if not os.path.lexists(each := Path(f"{found}.aside{n}")))
    return FileProblem(f"{found} is {what}", next=shlex.join(["mv", str(found), str(aside)]))
