"""Where a key is, whose host it is for, and why it is this one. It comes from, in this order:

1. the file that ``SWARMCTL_<NAME>_API_KEY_FILE`` names
2. the provider's environment variable
3. ``$CREDENTIALS_DIRECTORY/<name>`` (systemd)
4. the system's keyring
5. a 0600 file, only where somebody chose that
6. for ``huggingface``: the token file of the hub's own tools

What comes first is looked at first: with a key in the environment no keyring is asked. A place that has the key and
cannot give it is an error, never a reason to look further.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from hivemind_exp.errors import KeyProblem
from hivemind_exp.providers import PROVIDERS
from swarmctl.keys.key_text import clean_key, dotted_tail, file_variable, host_of, in_the_clear, last_four, read_text
from swarmctl.keys.saved import entries, read_entry, read_secret
from swarmctl.paths import shown
from swarmctl.storage.hub_cache import token_file

if TYPE_CHECKING:
    from hivemind_exp.offload.settings import Endpoint
    from swarmctl.terminal.prompter import Prompter

ADDRESSES = {"huggingface": "HF_ENDPOINT", "wandb": "WANDB_BASE_URL"}
"""What makes these libraries talk to another host."""


class LocationKind(StrEnum):
    """Where a key can come from, the first that has one first."""

    KEY_FILE = "key_file"
    ENVIRONMENT = "environment"
    CREDENTIALS = "credentials"
    KEYRING = "keyring"
    FILE = "file"
    HUB = "hub"


_SAVED = (LocationKind.KEYRING, LocationKind.FILE)
_GIVEN = (LocationKind.KEY_FILE, LocationKind.ENVIRONMENT, LocationKind.CREDENTIALS)
"""Put there by whoever put the address there, and meant for it."""


@dataclass(frozen=True, slots=True)
class KeyLocation:
    """One place that has a key, found without reading it."""

    place: LocationKind
    where: str
    """For people: "$OPENAI_API_KEY", "keyring"."""
    source: str
    """What to look up there: a variable, a path, the name in the index."""
    last_four: str | None

    @property
    def is_saved(self) -> bool:
        """Whether ``keys set`` put it there."""
        return self.place in _SAVED


@dataclass(frozen=True, slots=True)
class Key:
    """A key, and why it is this one."""

    name: str
    host: str
    spot: KeyLocation
    shadows: tuple[KeyLocation, ...]
    value: str = field(repr=False)
    """Empty for a saved key that was only looked for: reading it may open a dialog of the keyring."""

    @property
    def label(self) -> str:
        """Its last four characters and where it is from."""
        tail = last_four(self.value) if self.value else self.spot.last_four
        return f"{dotted_tail(tail)} from {self.spot.where}"

    @property
    def reason(self) -> str:
        """Where it is from, and what that wins over."""
        over = ", ".join(f"{spot.where} has {dotted_tail(spot.last_four)}" for spot in self.shadows)
        return f"{self.label} ({over})" if over else self.label

    def rival(self, environment: Mapping[str, str]) -> str | None:
        """Return the host that a variable would send the key to instead of its own; None where it may go there."""
        address = environment.get(ADDRESSES.get(self.name, ""))
        if not address or self.spot.place in _GIVEN:
            return None
        host = host_of(address)
        return host if host != self.host else address if in_the_clear(address) else None


def address_of(name: str) -> str | None:
    """Return the address that keys of this name are for; None where it is not known."""
    row, entry = PROVIDERS.get(name), read_entry(name)
    return row.base_url if row else entry.base_url if entry else None


def known_names(environment: Mapping[str, str]) -> list[str]:
    """Return every name that has a key somewhere: saved ones, and providers' in the environment."""
    return sorted({*entries(), *(name for name in PROVIDERS if key_locations(name, environment))})


def key_locations(name: str, environment: Mapping[str, str]) -> list[KeyLocation]:
    """Return the places that have a key of this name, the winner first. Reads no secret but the environment's."""
    row = PROVIDERS.get(name)
    found = []
    if path := environment.get(file_variable(name)):
        found.append(KeyLocation(LocationKind.KEY_FILE, f"the file in ${file_variable(name)}", path, None))
    for variable in row.variables if row else ():
        if value := environment.get(variable, "").strip():
            found.append(KeyLocation(LocationKind.ENVIRONMENT, f"${variable}", variable, last_four(value)))
    if directory := environment.get("CREDENTIALS_DIRECTORY"):
        path = os.path.join(directory, name)
        if os.path.exists(path):
            found.append(KeyLocation(LocationKind.CREDENTIALS, f"$CREDENTIALS_DIRECTORY/{name}", path, None))
    if entry := read_entry(name):
        where = "keyring" if entry.home == "keyring" else "0600 file"
        found.append(KeyLocation(LocationKind(entry.home), where, name, entry.last_four))
    if name == "huggingface" and (token := token_file(environment)).is_file():
        found.append(KeyLocation(LocationKind.HUB, shown(token), str(token), None))
    return found


class KeyFinder:
    """Finds keys and reads them."""

    def __init__(self, prompter: Prompter, environment: Mapping[str, str]) -> None:
        self._prompter = prompter
        self.environment = environment

    def find(self, name: str, *, base_url: str | None = None, pin: LocationKind | None = None) -> Key | None:
        """Return a key, or None where nothing has one.

        ``base_url`` is where it is to be sent. ``pin`` allows one place only.

        Raises KeyProblem where the place that comes first has a key and cannot give it, where the key belongs to
        another host, and where the place pinned has none.
        """
        found = [spot for spot in key_locations(name, self.environment) if pin in (None, spot.place)]
        if pin is not None and not found:
            raise KeyProblem(f"{name} is pinned to {pin}, which has no such key", next=f"swarmctl keys set {name}")
        if not found:
            return None
        host = _owner(name, base_url)
        first, *others = found
        value = self._saved(name) if first.is_saved else self._read(first)
        return Key(name, host, first, tuple(others), value)

    def find_for(self, endpoint: Endpoint, pin: str) -> Key | None:
        """Return the key of a provider, which ``offload.key`` may pin; None where it needs none and has none.

        Raises KeyProblem as ``find`` does, and where there is none but one is needed.
        """
        place = LocationKind(pin) if endpoint.needs_key and pin != "auto" else None
        key = self.find(endpoint.name, base_url=endpoint.base_url, pin=place)
        if key is None and endpoint.needs_key:
            raise KeyProblem(f"there is no key for {endpoint.name}", next=command_to_set(endpoint))
        return key

    def look(self, name: str) -> list[Key]:
        """Return every key of a provider of the table, the one that a run takes first. Opens no saved one.

        Raises KeyProblem where the first cannot be read; others are left out then.
        """
        keys: list[Key] = []
        for spot in key_locations(name, self.environment):
            try:
                value = "" if spot.is_saved else self._read(spot)
            except KeyProblem:
                if not keys:
                    raise
                continue
            keys.append(Key(name, host_of(PROVIDERS[name].base_url), spot, (), value))
        return keys

    def _read(self, spot: KeyLocation) -> str:
        if spot.place == LocationKind.ENVIRONMENT:
            return clean_key(self.environment[spot.source], f"in {spot.where}")
        where = shown(Path(spot.source))
        what = f"the key in {where} ({spot.where})"
        text = read_text(Path(spot.source).expanduser(), what, next="swarmctl keys list")
        return clean_key(text, f"in {where}")

    def _saved(self, name: str) -> str:
        from swarmctl.keys.keyring import Keyring  # here: ``keys list`` finds keys and reads none

        entry = read_entry(name)
        assert entry is not None
        if entry.home == "file":
            return clean_key(read_secret(entry), "in its file")
        value = Keyring(self._prompter).get(entry.name, entry.host)
        if value is None:
            text = f"key {name} is gone from the keyring: somebody deleted it there, or this is another keyring"
            raise KeyProblem(text, next=f"swarmctl keys set {name}")
        return clean_key(value, "in the keyring")


def _owner(name: str, wanted_url: str | None) -> str:
    """Return the host that the key belongs to. Raises KeyProblem where ``wanted_url`` is at another."""
    entry, url = read_entry(name), address_of(name) or wanted_url
    if url is None:
        raise KeyProblem(f"it is not known which host key {name} belongs to", next="swarmctl keys set --help")
    host, wanted = host_of(url), host_of(wanted_url or url)
    for owner in (host, entry.host if entry else host):
        if owner != wanted:
            text = f"key {name} belongs to {owner} and is not sent to {wanted}"
            raise KeyProblem(text, next="swarmctl keys set --help")
    return host


def command_to_set(endpoint: Endpoint) -> str:
    """Return the command that saves a provider's key."""
    host = "" if endpoint.name in PROVIDERS else f" --host {shlex.quote(endpoint.base_url)}"
    return f"swarmctl keys set {endpoint.name}{host}"
