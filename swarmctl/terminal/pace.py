"""How long a round may take without a GPU."""

from typing import Any

_SECONDS = 104 / (134.5e6 * 256 * 32)
"""For each parameter and token of a completion of maximum length. Measured with SmolLM2-135M on two cores: a round of
256 completions of up to 32 tokens took 104 s."""
_WORTH_SAYING_S = 60.0
_MINUTES, _HOURS = 120.0, 7200.0
"""Seconds from which a time is given in whole minutes and hours."""


def round_size(completions: int, tokens: int) -> str:
    """Return a round's size in words."""
    return f"a round of {completions:,} completions of up to {tokens:,} tokens"


def cpu_round(parameters: int, completions: int, tokens: int) -> str | None:
    """Return how long a round may take on a CPU; None if it is quick."""
    seconds = parameters * completions * tokens * _SECONDS
    if seconds < _WORTH_SAYING_S:
        return None
    return f"{round_size(completions, tokens)} takes up to {_rough(seconds)} on two cores (estimate)"


def _rough(seconds: float) -> str:
    """Return a time with as many digits as an estimate deserves."""
    if seconds < _MINUTES:
        return f"{round(seconds, -1):.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < _HOURS else f"{seconds / 3600:.0f} hours"


def without_gpu(event: dict[str, Any]) -> str:
    """Return what a node's ``start`` event says about a round on a CPU, as a further sentence; empty if nothing."""
    counts = [event.get(name) or 0 for name in ("parameters", "groups", "group_size", "completion_tokens")]
    if event.get("device") != "cpu":
        return ""
    pace = cpu_round(counts[0], counts[1] * counts[2], counts[3])
    return "" if pace is None else f" Without a GPU, {pace}."
