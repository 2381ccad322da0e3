"""Helpers for the tests of doctor's api group: a profile that offloads to a custom provider."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmctl.doctor import command, registry
from swarmctl.doctor.check import Finding
from tests.support.command_line import write_profile
from tests.support.doctor import make

KEY = "sk-PLANTEDplantedPLANTED-1234"


def give_key(path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """Give the provider ``box`` a key in a file."""
    path.write_text(key)
    monkeypatch.setenv("SWARMCTL_BOX_API_KEY_FILE", str(path))


def profile(home: Path, base_url: str, *, box: str = "", more: str = "", offload: str = "") -> None:
    """Save a profile that offloads to a custom provider, which costs 2 and 8 USD per million tokens."""
    write_profile(
        home,
        "offloaded",
        f"""
extends = "demo"
[offload]
provider = "box"
{offload}
[offload.prices.box]
input = 2.0
output = 8.0
[providers.box]
base_url = "{base_url}"
model = "test-model"
{box}
{more}
""",
    )


def look(*names: str, deep: bool = False, offline: bool = False) -> dict[str, Finding]:
    """Run checks of the api group as the command does, and return the findings by name."""
    context = make("offloaded", deep=deep, offline=offline)
    outcomes = command.make(registry.select(names or ["api"], context), context)
    return {outcome.check.name: outcome.finding for outcome in outcomes}
