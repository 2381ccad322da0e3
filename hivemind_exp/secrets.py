"""Keys that a run needs, as its trainer receives them: read once from an inherited pipe, kept in memory only.

They are never put into this process's environment: its children would inherit that.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hivemind_exp.providers import KEY_VARIABLES, PROVIDERS

_KEY_VARIABLE = re.compile(r".*_API_KEY(_FILE)?")
"""Also those of services that are no row of the table."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """Keys, by name of the service. Does not show them when printed."""

    _keys: dict[str, str] = field(default_factory=dict, repr=False)

    def get(self, name: str) -> str | None:
        """Return a key, or None where there is none."""
        return self._keys.get(name)


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the variables that hold keys, or lead to files of keys."""
    return {
        name: value
        for name, value in environment.items()
        if name not in KEY_VARIABLES and name != "CREDENTIALS_DIRECTORY" and not _KEY_VARIABLE.fullmatch(name)
    }


def receive(descriptor: int | None) -> Secrets:
    """Read keys from the pipe to its end, and close it: afterwards nothing in ``/proc`` leads to them."""
    if descriptor is None:
        return Secrets()
    with os.fdopen(descriptor, "rb") as pipe:
        keys: dict[str, Any] = json.loads(pipe.read())
    return Secrets({name: str(key) for name, key in keys.items()})


def use_wandb_key(secrets: Secrets) -> None:
    """Give Weights & Biases its key for this process. (``wandb.login`` would write it to ``~/.netrc``.)"""
    key = secrets.get("wandb")
    if key is None:
        return
    import wandb

    # With the address: the key would else go to whichever host this version of the library prefers.
    address = os.environ.get("WANDB_BASE_URL", PROVIDERS["wandb"].base_url)
    wandb.setup(settings=wandb.Settings(api_key=key, base_url=address))
