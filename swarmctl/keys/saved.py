"""Metadata of saved keys, without the keys themselves. Each key has its own small file: a shell can list these files,
and none is lost if two commands write at once. If the user chose so, files with the keys are stored next to them.
"""

import shlex
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from hivemind_exp.errors import KeyProblem
from hivemind_exp.formats import FORMAT, check_number
from swarmctl.keys.key_text import host_of, origin_of
from swarmctl.paths import keys_directory, secrets_directory, shown
from swarmctl.storage.json_file import now, read_json, write_json

Home = Literal["keyring", "file"]
"""Where a saved key is stored."""


@dataclass(frozen=True, slots=True)
class SavedKey:
    """Metadata of a saved key."""

    name: str
    base_url: str
    host: str
    last_four: str | None
    home: Home
    saved: str
    """When it was saved (RFC 3339)."""
    tested: str | None = None
    result: str | None = None
    leftovers: tuple[str, ...] = ()
    """Hosts for which the keyring may hold a further copy, because it did not respond when that had to be deleted."""

    @property
    def in_keyring(self) -> tuple[str, ...]:
        """The hosts for which the keyring holds a key of this name, or may do so."""
        return (*([self.host] if self.home == "keyring" else []), *self.leftovers)


def entries() -> dict[str, SavedKey]:
    """Return the metadata of every saved key, by name."""
    found = (read_entry(path.stem) for path in sorted(keys_directory().glob("*.json")))
    return {entry.name: entry for entry in found if entry is not None}


def read_entry(name: str) -> SavedKey | None:
    """Return a saved key's metadata, or None. Raises KeyProblem if its file is damaged."""
    path = _path(name)
    if not path.exists():
        return None
    value = read_json(path) or {}
    check_number(path, value.get("schema"))
    try:
        address = value.get("base_url") or value["host"]
        value["base_url"] = address if "://" in address else f"https://{address}"
        value["leftovers"] = tuple(map(str, value.get("leftovers", ())))
        entry = SavedKey(**{field: value[field] for field in SavedKey.__dataclass_fields__})
        if entry.name != name or entry.home not in ("keyring", "file") or entry.host != host_of(entry.base_url):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KeyProblem(
            f"{shown(path)} is damaged; delete it and save the key again", next=f"rm {shlex.quote(str(path))}"
        ) from error
    return entry


def write_entry(entry: SavedKey) -> None:
    """Save a key's metadata."""
    _write(_path(entry.name), {"schema": FORMAT, **asdict(entry)})


def remove_entry(name: str) -> None:
    """Delete a key's metadata."""
    _path(name).unlink(missing_ok=True)


def note_test(entry: SavedKey, result: str) -> None:
    """Save a test result. A directory that cannot be written to is not an error."""
    with suppress(OSError):
        write_entry(replace(entry, tested=now(), result=result))


def bound_origin(name: str) -> str | None:
    """Return the scheme, host and port of a key's first use, if its location does not name them; None if unused."""
    origin = (read_json(_binding(name)) or {}).get("origin")
    return origin if isinstance(origin, str) else None


def first_address(name: str) -> str | None:
    """Return the base URL of a key's first use, as ``bound_origin``."""
    origin, url = bound_origin(name), (read_json(_binding(name)) or {}).get("base_url")
    return url if isinstance(url, str) and origin == origin_of(url) else origin


def bound_names() -> list[str]:
    """Return the names that have an address of their first use."""
    return sorted(path.stem for path in _binding("any").parent.glob("*.json"))


def bind(name: str, origin: str, base_url: str) -> None:
    """Record the address of a key's first use. A directory that cannot be written to is not an error."""
    if bound_origin(name) is None:
        with suppress(OSError):
            _write(_binding(name), {"schema": 1, "origin": origin, "base_url": base_url})


def unbind(name: str) -> None:
    """Delete the record of a key's first use."""
    _binding(name).unlink(missing_ok=True)


def read_secret(entry: SavedKey) -> str:
    """Return a key from its file. Raises KeyProblem if the file is missing, damaged or readable by other users."""
    path, again = _secret(entry.name), f"swarmctl keys set {entry.name}"
    if not path.exists():
        raise KeyProblem(f"the file of key {entry.name} is missing: {shown(path)}", next=again)
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise KeyProblem(
            f"other users can read {shown(path)} (mode {mode:04o})", next=f"chmod 600 {shlex.quote(str(path))}"
        )
    value = read_json(path) or {}
    check_number(path, value.get("schema"))
    if value.get("host") != entry.host or not isinstance(value.get("key"), str):
        raise KeyProblem(f"{shown(path)} contains no key for {entry.host}", next=again)
    return str(value["key"])


def write_secret(name: str, host: str, key: str) -> None:
    """Write a key to a file that only its owner can read."""
    _write(_secret(name), {"schema": FORMAT, "host": host, "key": key})


def remove_secret(name: str) -> None:
    """Delete a key's file, if it exists."""
    _secret(name).unlink(missing_ok=True)


def _path(name: str) -> Path:
    return keys_directory() / f"{name}.json"


def _binding(name: str) -> Path:
    return keys_directory() / "first-use" / f"{name}.json"


def _secret(name: str) -> Path:
    return secrets_directory() / f"{name}.json"


def _write(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    write_json(path, value)
