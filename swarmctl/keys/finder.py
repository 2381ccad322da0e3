"""Find a key: where it is, which host it is for, and why it was chosen. Locations, in order of precedence:

1. the file named by ``SWARMCTL_<NAME>_API_KEY_FILE``
2. the provider's environment variable
3. ``$CREDENTIALS_DIRECTORY/<name>`` (systemd)
4. the system keyring
5. a 0600 file, only if the user chose that
6. for ``huggingface``: the token file of the hub's own tools

The first location with a key wins: if the environment has a key, the keyring is not opened. If that key cannot be read,
that is an error; later locations are not tried.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from hivemind_exp.errors import KeyProblem
from hivemind_exp.providers import PROVIDERS
from hivemind_exp.proxies import address_in, check_key_stays_private, proxy_for
from swarmctl.keys.key_text import (
    clean_key,
    dotted_tail,
    file_variable,
    host_of,
    in_the_clear,
    last_four,
    names_of_files,
    origin_of,
    read_text,
)
from swarmctl.keys.saved import bind, bound_names, bound_origin, entries, first_address, read_entry, read_secret
from swarmctl.paths import shown
from swarmctl.storage.hub_cache import token_file

if TYPE_CHECKING:
    from hivemind_exp.offload.settings import Endpoint
    from swarmctl.terminal.prompter import Prompter

ADDRESSES = {"huggingface": "HF_ENDPOINT", "wandb": "WANDB_BASE_URL"}
"""The variables that make these libraries use another host."""


class LocationKind(StrEnum):
    """Where a key can come from, in order of precedence."""

    KEY_FILE = "key_file"
    ENVIRONMENT = "environment"
    CREDENTIALS = "credentials"
    KEYRING = "keyring"
    FILE = "file"
    HUB = "hub"


_SAVED = (LocationKind.KEYRING, LocationKind.FILE)
_UNADDRESSED = (LocationKind.KEY_FILE, LocationKind.CREDENTIALS)
"""Locations that do not say which service a key is for. The key belongs to the service of its first use."""


@dataclass(frozen=True, slots=True)
class KeyLocation:
    """A location that has a key, found without reading the key."""

    place: LocationKind
    where: str
    """For display: "$OPENAI_API_KEY", "keyring"."""
    source: str
    """What to look up there: a variable, a path, or the name in the index."""
    last_four: str | None

    @property
    def is_saved(self) -> bool:
        """Whether ``keys set`` saved the key there."""
        return self.place in _SAVED


@dataclass(frozen=True, slots=True)
class Key:
    """A key, and why it was chosen."""

    name: str
    origin: str
    """Scheme, host and port that the key belongs to."""
    spot: KeyLocation
    shadows: tuple[KeyLocation, ...]
    value: str = field(repr=False)
    """Empty for a saved key that was located but not read: reading it may open a keyring dialog."""

    @property
    def host(self) -> str:
        return host_of(self.origin)

    @property
    def label(self) -> str:
        """The key's last four characters and its location."""
        tail = last_four(self.value) if self.value else self.spot.last_four
        return f"{dotted_tail(tail)} from {self.spot.where}"

    @property
    def reason(self) -> str:
        """The key's label, and the keys it overrides."""
        over = ", ".join(f"{dotted_tail(spot.last_four)} from {spot.where}" for spot in self.shadows)
        return f"{self.label} (overrides {over})" if over else self.label

    def rival(self, environment: Mapping[str, str]) -> str | None:
        """Return the other address to which a variable would send the key; None if the key may be sent there.

        A key in a variable is meant for the address in the other variable, but must not cross the internet or a proxy
        unencrypted. Raises ConfigurationError if that variable has no address.
        """
        address = address_in(environment, ADDRESSES.get(self.name, ""))
        if not address:
            return None
        origin = origin_of(address)
        if self.spot.place is LocationKind.ENVIRONMENT:
            readable = in_the_clear(address) or (origin.startswith("http:") and proxy_for(address) is not None)
            return origin if readable else None
        return origin if origin != self.origin else None


def address_of(name: str) -> str | None:
    """Return the base URL that keys of this name are for; None if it is unknown."""
    row, entry = PROVIDERS.get(name), read_entry(name)
    return row.base_url if row else entry.base_url if entry else first_address(name)


def known_names(environment: Mapping[str, str]) -> list[str]:
    """Return every name that has a key: saved keys, providers with a key in any location, and your own servers.

    A server is known from its key's file, or because its key was used. (Not every file of systemd's is an API key.)
    """
    names = {*PROVIDERS, *names_of_files(environment), *bound_names()}
    return sorted({*entries(), *(name for name in names if key_locations(name, environment))})


def key_locations(name: str, environment: Mapping[str, str]) -> list[KeyLocation]:
    """Return the locations that have a key of this name, in order of precedence. Reads only the environment's keys."""
    row = PROVIDERS.get(name)
    found = []
    if path := environment.get(file_variable(name)):
        found.append(KeyLocation(LocationKind.KEY_FILE, f"${file_variable(name)}", path, None))
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


def address_to_test(key: Key, environment: Mapping[str, str]) -> str | None:
    """Return the base URL to which a run would send the key; None if it is unknown.

    Raises KeyProblem if a run would not send it, and ConfigurationError if a variable with an address has none.
    """
    rival, variable = key.rival(environment), ADDRESSES.get(key.name, "")
    if rival and key.spot.place is LocationKind.ENVIRONMENT:
        text = f"key {key.name} is meant for {rival} (${variable}), and is not sent unencrypted"
        raise KeyProblem(text, next=f"unset {variable}")
    named = address_in(environment, variable)
    if named and not rival:
        return named
    usual = address_of(key.name)
    return usual if usual is None or origin_of(usual) == key.origin else key.origin


class KeyFinder:
    """Finds and reads keys."""

    def __init__(self, prompter: Prompter, environment: Mapping[str, str]) -> None:
        self._prompter = prompter
        self.environment = environment

    def find(self, name: str, *, base_url: str | None = None, pin: LocationKind | None = None) -> Key | None:
        """Return a key, or None if no location has one.

        ``base_url`` is where the key will be sent. ``pin`` limits the search to one location.

        Raises KeyProblem if the first key found cannot be read, if it belongs to another address, if a proxy would read
        it, or if the pinned location has no key.
        """
        found = [spot for spot in key_locations(name, self.environment) if pin in (None, spot.place)]
        if pin is not None and not found:
            text = f"no key for {name} in '{pin}', the only location that offload.key allows"
            raise KeyProblem(text, next=f"swarmctl keys set {name}")
        if not found:
            return None
        first, *others = found
        origin = self._owner(name, base_url, first)
        if base_url is not None:
            check_key_stays_private(base_url)
        value = self._saved(name) if first.is_saved else self._read(first)
        return Key(name, origin, first, tuple(others), value)

    def find_for(self, endpoint: Endpoint, pin: str) -> Key | None:
        """Return a provider's key; None if the provider needs no key and has none. ``pin`` is ``offload.key``.

        Raises KeyProblem as ``find`` does, and if a required key is missing.
        """
        place = LocationKind(pin) if endpoint.needs_key and pin != "auto" else None
        key = self.find(endpoint.name, base_url=endpoint.base_url, pin=place)
        if key is None and endpoint.needs_key:
            raise KeyProblem(f"no key for {endpoint.name}", next=endpoint.key_command)
        return key

    def look(self, name: str) -> list[Key]:
        """Return every key of a known provider, in order of precedence. Does not read saved keys.

        Raises KeyProblem if the first key cannot be read. Other unreadable keys are left out.
        """
        keys: list[Key] = []
        for spot in key_locations(name, self.environment):
            try:
                value = "" if spot.is_saved else self._read(spot)
            except KeyProblem:
                if not keys:
                    raise
                continue
            keys.append(Key(name, self._owner(name, None, spot), spot, (), value))
        return keys

    def _owner(self, name: str, wanted_url: str | None, spot: KeyLocation) -> str:
        """Return what a key belongs to (``origin_of``). Raises KeyProblem if that is not ``wanted_url``.

        If a key's location does not say what it is for, it belongs to the address that it was first sent to.
        """
        entry, url = read_entry(name), address_of(name) or wanted_url
        if url is None:
            text = f"key {name} from {spot.where} has not been used yet, so the server that it belongs to is unknown"
            raise KeyProblem(text, next="swarmctl models --help")
        origin = origin_of(url)
        if spot.place in _UNADDRESSED and (name not in PROVIDERS or name in ADDRESSES):
            first = address_in(self.environment, ADDRESSES.get(name, "")) or url
            origin = bound_origin(name) or origin_of(first)
            bind(name, origin, first)
        wanted = origin_of(wanted_url or origin)
        for owner in (origin, origin_of(entry.base_url) if entry and name not in PROVIDERS else origin):
            if owner != wanted:
                text = f"key {name} belongs to {owner} and is not sent to {wanted}"
                again = f"swarmctl keys delete {name}" if owner == bound_origin(name) else "swarmctl keys set --help"
                raise KeyProblem(text, next=again)
        return origin

    def _read(self, spot: KeyLocation) -> str:
        if spot.place == LocationKind.ENVIRONMENT:
            return clean_key(self.environment[spot.source], f"in {spot.where}")
        where = shown(Path(spot.source))
        what = f"the key in {where} ({spot.where})"
        text = read_text(Path(spot.source).expanduser(), what, next="swarmctl keys list")
        return clean_key(text, f"in {where}")

    def _saved(self, name: str) -> str:
        from swarmctl.keys.keyring import Keyring  # imported here: ``keys list`` never reads a key

        entry = read_entry(name)
        assert entry is not None
        if entry.home == "file":
            return clean_key(read_secret(entry), "in its file")
        value = Keyring(self._prompter).get(entry.name, entry.host)
        if value is None:
            text = f"key {name} is no longer in the keyring; it was deleted, or this is a different keyring"
            raise KeyProblem(text, next=f"swarmctl keys set {name}")
        return clean_key(value, "in the keyring")
