"""The file of a backup: a tar archive whose first member lists the others, with their sizes and digests.

An archive is foreign input: it can be damaged, cut, or made to overwrite other files. So only regular files are read,
only those that are listed, only under paths that a node's files have, and only as many bytes as the list says.
"""

import hashlib
import json
import re
import shlex
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from hivemind_exp import atomic_write
from hivemind_exp.errors import DiskFull, FileProblem
from hivemind_exp.finite_numbers import is_finite
from hivemind_exp.foreign_text import foreign
from hivemind_exp.formats import check_number
from swarmctl.paths import shown

FORMAT = 1
INDEX = "backup.json"
_PREFIX = "node/"
_CHUNK = 1 << 20
_MOST_FILES = 10_000
_MOST_INDEX = 8 << 20
"""Bytes of the largest list that is read."""
FILES = (
    "node.json",
    "config.json",
    "run.json",
    "prompt.json",
    "inputs.json",
    "consent.json",
    "spent.json",
    "sample.json",
    "secret",
    "identity.key",
    "incarnation.json",
    "charter",
    "quarantine.json",
    "events.jsonl",
    "journal.sqlite",
    "ledger.sqlite",
)
"""The files in a node's directory that a backup contains, if they exist. The log has older parts, too."""
DIRECTORIES = ("base", "checkpoints", "swarm", "left")
"""The directories: of the checkpoints, only one is in a backup."""
_LOG_PART = re.compile(r"events-[0-9]{6,9}\.jsonl")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in a backup."""

    path: str
    """Relative to the node's directory."""
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class About:
    """What a backup says about itself."""

    node: str
    created: str
    """RFC 3339."""
    version: str
    """Of swarmctl."""
    peer_id: str | None
    round: int | None
    step: int | None
    spent: float
    """US dollars, as known when the backup was made."""
    files: tuple[Entry, ...]


def listed(root: Path) -> tuple[Entry, ...]:
    """Return the files below a directory, as entries. Raises OSError."""
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return tuple(Entry(str(path.relative_to(root)), path.stat().st_size, _digest(path)) for path in paths)


def write(target: Path, root: Path, about: About) -> None:
    """Write the files below ``root`` that ``about`` lists, atomically and with mode 0600. Raises OSError."""
    index = json.dumps({"schema": FORMAT, "kind": "swarmctl backup", **asdict(about)}, indent=1).encode()
    with atomic_write.new_file(target) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, INDEX, len(index), BytesIO(index))
        for entry in about.files:
            with (root / entry.path).open("rb") as content:
                _add(tar, _PREFIX + entry.path, entry.size, content)


def _add(tar: tarfile.TarFile, name: str, size: int, content: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    tar.addfile(member, content)


@contextmanager
def opened(path: Path) -> Iterator["Backup"]:
    """Open a backup. Raises FileProblem if it is none or is damaged, NewerFormat if a newer version wrote it."""
    try:
        if not path.is_file():
            raise refused(path, "it is not a regular file" if path.exists() else "there is no such file")
        with tarfile.open(path, mode="r:") as tar:
            yield Backup(path, tar, _read_index(path, tar))
    except (tarfile.TarError, EOFError) as error:
        raise refused(path, f"it is not a backup, or it is cut off ({foreign(error)})") from error


@dataclass(frozen=True, slots=True)
class Backup:
    """An open backup."""

    path: Path
    _tar: tarfile.TarFile
    about: About

    def extract(self, root: Path) -> None:
        """Write the backup's files below the existing, empty directory ``root``, with mode 0600.

        Raises FileProblem if one of them is not what the list says, DiskFull if they do not fit, OSError.
        """
        total, free = sum(entry.size for entry in self.about.files), shutil.disk_usage(root).free
        if total > free:
            raise DiskFull(
                f"cannot restore {shown(self.path)}: it needs {total / 2**20:.0f} MiB, and {free / 2**20:.0f} MiB are "
                "free",
                next=shlex.join(["df", "-h", str(root.parent)]),
            )
        for entry in self.about.files:
            member = self._tar.next()
            if member is None:
                raise refused(self.path, f"it is cut off before {entry.path}")
            if not _is_plain(member) or (member.name, member.size) != (_PREFIX + entry.path, entry.size):
                raise refused(self.path, f"it contains {foreign(member.name)} in place of {entry.path}")
            target = root / entry.path
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            content = self._tar.extractfile(member)
            assert content is not None
            with content, target.open("xb") as file:
                target.chmod(0o600)
                if _copy(content, file) != (entry.size, entry.sha256):
                    raise refused(self.path, f"{entry.path} is damaged in it")
        if self._tar.next() is not None:
            raise refused(self.path, "it contains more files than it lists")


def refused(path: Path, why: str) -> FileProblem:
    """Return the error for a backup that cannot be used."""
    listed = path if path.exists() else path.absolute().parent
    return FileProblem(f"cannot restore {shown(path)}: {why}", next=shlex.join(["ls", "-l", str(listed)]))


def _read_index(path: Path, tar: tarfile.TarFile) -> About:
    member = tar.next()
    if member is None or member.name != INDEX or not _is_plain(member) or member.size > _MOST_INDEX:
        raise refused(path, "it is not a backup that swarmctl made")
    content = tar.extractfile(member)
    assert content is not None
    try:
        index = json.loads(content.read())
        if index["kind"] != "swarmctl backup":
            raise ValueError("not a backup")
        check_number(path, index["schema"], FORMAT)
        entries = tuple(_entry(each) for each in index["files"])
        about = About(
            _text(index["node"]),
            _text(index["created"]),
            _text(index["version"]),
            None if index["peer_id"] is None else _text(index["peer_id"]),
            _count(index["round"]),
            _count(index["step"]),
            _amount(index["spent"]),
            entries,
        )
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise refused(path, "its list of files is damaged") from error
    names = {entry.path for entry in entries}
    if len(names) != len(entries) or not {"node.json", "config.json"} <= names or len(entries) > _MOST_FILES:
        raise refused(path, "its list of files is not that of a node")
    for entry in entries:
        if not _belongs(entry.path):
            raise refused(path, f"it lists {foreign(entry.path)}, which is not a node's file")
    return about


def _belongs(path: str) -> bool:
    """Whether a node has a file with this path."""
    parts = path.split("/")
    if len(parts) == 1:
        return path in FILES or _LOG_PART.fullmatch(path) is not None
    return parts[0] in DIRECTORIES and len(parts) <= 6 and all(_PART.fullmatch(part) for part in parts)


def _is_plain(member: tarfile.TarInfo) -> bool:
    return member.isreg() and not member.issparse()


def _entry(stored: Any) -> Entry:
    size = _count(stored["size"])
    if size is None or not re.fullmatch(r"[0-9a-f]{64}", stored["sha256"]):
        raise ValueError(stored)
    return Entry(_text(stored["path"]), size, stored["sha256"])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _amount(value: Any) -> float:
    if not is_finite(value) or value < 0:
        raise ValueError
    return float(value)


def _count(value: Any) -> int | None:
    if value is not None and (type(value) is not int or value < 0):
        raise ValueError(value)
    return value


def _copy(content: IO[bytes], file: IO[bytes]) -> tuple[int, str]:
    """Copy a file; return its size and digest."""
    size, digest = 0, hashlib.sha256()
    while chunk := content.read(_CHUNK):
        file.write(chunk)
        digest.update(chunk)
        size += len(chunk)
    return size, digest.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
