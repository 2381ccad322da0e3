"""``swarmctl profiles show``: the configuration that a profile leads to, with the current environment."""

import os

from swarmctl.settings import profile_files as profiles
from swarmctl.settings.resolve import override, resolve
from swarmctl.settings.toml_text import as_toml
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.safe_text import clean


def show_profile(name: str | None, assignments: tuple[str, ...], *, origin: bool, as_json: bool) -> None:
    """Print the configuration that a profile leads to. Raises ConfigurationError."""
    profile = profiles.read(profiles.find(profiles.chosen(name)))
    resolved = resolve(profile, [override(text) for text in assignments], os.environ)
    if as_json:
        print_json(name=profile.name, path=str(profile.path), **resolved.as_json())
    else:
        print(clean(as_toml(resolved, origins=origin)), end="")
