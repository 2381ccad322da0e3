"""API keys for a run. The trainer reads them once from an inherited pipe and keeps them only in memory.

They never enter this process's environment, because child processes would inherit it.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hivemind_exp.providers import KEY_VARIABLES, PROVIDERS

_KEY_VARIABLE = re.compile(r".*_API_KEY(_FILE)?")
"""Matches the variables of services outside the provider table, too."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """API keys by service name. Printing the object does not show them."""

    _keys: dict[str, str] = field(default_factory=dict, repr=False)

    def get(self, name: str) -> str | None:
        """Return the key of a service, or None."""
        return self._keys.get(name)


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without variables that hold keys or point to key files."""
    return {
        name: value
        for name, value in environment.items()
        if name not in KEY_VARIABLES and name != "CREDENTIALS_DIRECTORY" and not _KEY_VARIABLE.fullmatch(name)
    }


def receive(descriptor: int | None) -> Secrets:
    """Read keys from the pipe until its end and close it. After that, nothing in ``/proc`` leads to the keys."""
    if descriptor is None:
        return Secrets()
    with os.fdopen(descriptor, "rb") as pipe:
        keys: dict[str, Any] = json.loads(pipe.read())
    return Secrets({name: str(key) for name, key in keys.items()})


def use_wandb_key(secrets: Secrets) -> None:
    """Set the Weights & Biases key for this process only (``wandb.login`` would write it to ``~/.netrc``)."""
    key = secrets.get("wandb")
    if key is None:
        return
    import wandb

    # Without the address, the key would go to whichever host this version of the library uses by default.
    address = os.environ.get("WANDB_BASE_URL", PROVIDERS["wandb"].base_url)
    wandb.setup(settings=wandb.Settings(api_key=key, base_url=address))
