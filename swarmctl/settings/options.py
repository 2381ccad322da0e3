"""The parsed arguments of commands."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FLAGS: Mapping[str, str] = {
    "--task": "tasks",
    "--model": "model.name",
    "--device": "model.device",
    "--gpus": "train.processes",
    "--rounds": "game.rounds",
    "--seed": "node.seed",
    "--offload": "offload.provider",
    "--serve": "offload.serving.command",
    "--max-usd": "offload.limits.usd",
    "--join": "swarm.join",
    "--restart": "supervision.restart",
}
"""Flags of ``run`` that set a setting."""


def tasks_text(tasks: Sequence[str] | None) -> str | None:
    """Return the values of ``--task`` as one setting. A value may list several tasks; existing paths are not split."""
    if not tasks:
        return None
    parts = [part for task in tasks for part in ([task] if Path(task).exists() else task.split(","))]
    return json.dumps(parts) if any("," in part for part in parts) else ",".join(parts)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The command line of ``run``."""

    profile: str | None = None
    node: str | None = None
    flags: tuple[tuple[str, str, str], ...] = ()
    """(flag, setting, text) for each flag that sets a setting."""
    assignments: tuple[str, ...] = ()
    """``--set``, as typed."""
    fresh: bool = False
    """Start over: set aside what the node learned, and delete it once the new run has started."""
    dry_run: bool = False
    all_settings: bool = False
    """``--all``: a dry run shows all settings, too."""
    detach: bool = False
    """Continue in the background once the node has started."""
    unattended: bool = False
    """Run as a service: no one watches, so a node is restarted even if it has not started yet."""
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
