"""Where keys are, found without reading any: from the environment's names, the index, and which files exist."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hivemind_exp.providers import PROVIDERS
from swarmctl.keys.key_text import dotted_tail, file_variable, last_four
from swarmctl.keys.saved import entries, read_entry
from swarmctl.paths import shown


class LocationKind(StrEnum):
    """Where a key can come from, the first that has one first."""

    KEY_FILE = "key_file"
    ENVIRONMENT = "environment"
    CREDENTIALS = "credentials"
    KEYRING = "keyring"
    FILE = "file"
    HUB = "hub"


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
    def brief(self) -> str:
        return f"{self.where} has {dotted_tail(self.last_four)}"


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
    entry = read_entry(name)
    if entry is not None:
        where = "keyring" if entry.home == "keyring" else "0600 file"
        found.append(KeyLocation(LocationKind(entry.home), where, name, entry.last_four))
    if name == "huggingface" and (token := _hub_file(environment)).is_file():
        found.append(KeyLocation(LocationKind.HUB, shown(token), str(token), None))
    return found


def _hub_file(environment: Mapping[str, str]) -> Path:
    """Return where ``hf auth login`` leaves its token (``huggingface_hub.constants`` takes a while to import)."""
    if path := environment.get("HF_TOKEN_PATH"):
        return Path(path).expanduser()
    cache = environment.get("XDG_CACHE_HOME", "~/.cache")
    return Path(environment.get("HF_HOME", os.path.join(cache, "huggingface"))).expanduser() / "token"
