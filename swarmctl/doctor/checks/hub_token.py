"""Where keys are looked for. The one place to extend when keys are also kept elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from swarmctl.keys.key_text import dotted_tail, last_four
from swarmctl.keys.locations import KeyLocation, LocationKind, key_locations
from swarmctl.paths import shown
from swarmctl.storage import hub_cache as places


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A key that was found."""

    source: str
    """Where, for people."""
    value: str | None = field(repr=False)
    """None where it is in the keyring, which is not asked: it may open a dialog."""
    last_four: str | None
    anywhere: bool = False
    """Whether it may go to another host than its service's own: whoever sets a variable means the address beside it."""

    @property
    def label(self) -> str:
        """Its last four characters and where it is from."""
        return f"{dotted_tail(self.last_four)} from {self.source}"


def find_keys(name: str, environment: Mapping[str, str]) -> list[FoundKey]:
    """Return every key of a service that is there, in the keystore's order; the first is the one that is used."""
    found = [key for spot in key_locations(name, environment) if (key := _key_at(spot, environment)) is not None]
    filed = _netrc(environment) if name == "wandb" else None
    return [*found, *([filed] if filed else [])]


def _key_at(spot: KeyLocation, environment: Mapping[str, str]) -> FoundKey | None:
    if spot.place is LocationKind.ENVIRONMENT:
        value = environment[spot.source].strip()
    elif spot.place in (LocationKind.KEYRING, LocationKind.FILE):
        return FoundKey(spot.where, None, spot.last_four)
    else:
        try:
            value = Path(spot.source).expanduser().read_text().strip()
        except (OSError, UnicodeDecodeError):
            return None
    anywhere = spot.place is not LocationKind.HUB
    return FoundKey(spot.where, value, last_four(value), anywhere=anywhere) if value else None


def find_key(name: str, environment: Mapping[str, str]) -> FoundKey | None:
    """Return a service's key, or None."""
    return next(iter(find_keys(name, environment)), None)


def hub_token(environment: Mapping[str, str]) -> str | None:
    """Return the token to show to the hub's address: a saved one is for the hub itself, and for no other host."""
    key = find_key("huggingface", environment)
    if key is None or not (key.anywhere or places.endpoint(environment) == places.ENDPOINT):
        return None
    return key.value


def _netrc(environment: Mapping[str, str]) -> FoundKey | None:
    """Return what ``wandb login`` left."""
    from netrc import NetrcParseError, netrc

    path = Path(os.path.expanduser(environment.get("NETRC", "~/.netrc")))
    host = urlsplit(environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        entry = netrc(str(path)).authenticators(host)
    except (OSError, NetrcParseError, UnicodeDecodeError):
        return None
    return FoundKey(shown(path), entry[2], last_four(entry[2])) if entry and entry[2] else None
