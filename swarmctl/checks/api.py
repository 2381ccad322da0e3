"""The services that generate rollouts for the node."""

from __future__ import annotations

from swarmctl.checks.base import Context, Finding, skipped


def providers(_context: Context) -> Finding:
    """Look at each provider that the profile offloads to."""
    return skipped("no provider in this profile")
