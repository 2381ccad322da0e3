"""What ``swarmctl`` says about values in the profile "default" and on the command line."""

from __future__ import annotations

from swarmctl.settings import profile_files as profiles
from swarmctl.settings.resolve import override, problems_of
from swarmctl.settings.sources import Override


def messages(*overrides: Override) -> list[str]:
    """Return the problems of these values."""
    _, problems = problems_of(profiles.read(profiles.find("default")), overrides)
    return list(map(str, problems))


def assigned(*assignments: str) -> list[str]:
    """Return the problems of these options of ``--set``."""
    return messages(*map(override, assignments))
