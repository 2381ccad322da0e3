"""The parsed arguments of commands."""

from collections.abc import Mapping
from dataclasses import dataclass

FLAGS: Mapping[str, str] = {
    "--task": "tasks",
    "--model": "model.name",
    "--device": "model.device",
    "--rounds": "game.rounds",
    "--seed": "node.seed",
    "--offload": "offload.provider",
    "--max-usd": "offload.limits.usd",
    "--join": "swarm.join",
}
"""Flags of ``run`` that set a setting."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The command line of ``run``."""

    profile: str | None = None
    node: str | None = None
    flags: tuple[tuple[str, str, str], ...] = ()
    """(flag, setting, text) for each flag that sets a setting."""
    assignments: tuple[str, ...] = ()
    """``--set``, as typed."""
    dry_run: bool = False
    all_settings: bool = False
    """``--all``: a dry run shows all settings, too."""
    plain: bool = False
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    yes: bool = False
    no_input: bool = False


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """The command line of ``doctor``."""

    checks: tuple[str, ...] = ()
    profile: str | None = None
    node: str | None = None
    assignments: tuple[str, ...] = ()
    deep: bool = False
    offline: bool = False
    fix: bool = False
    report: bool = False
    as_json: bool = False
