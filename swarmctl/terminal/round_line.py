"""One line for each round."""

from __future__ import annotations

from typing import Any

from hivemind_exp.money import dollars
from swarmctl.terminal.progress import RunView
from swarmctl.terminal.sentences import duration, of_rounds

_FROM = {"policy": "", "peer": " from peers", "hinted": " with hints"}


def _verified(rollouts: list[dict[str, Any]], progress: RunView) -> list[str]:
    """Return how many of a round's completions are correct, by stage and source."""
    parts = []
    several = len({event.get("stage") for event in rollouts}) > 1
    for event in rollouts:
        source = _FROM.get(str(event.get("source")), f" from {event.get('source')}")
        if event.get("source") == "peer" and not event.get("count"):
            continue
        stage = f"{event.get('stage')} " if several else ""
        if event.get("count"):
            parts.append(f"{stage}{event.get('correct')} of {event['count']} correct{source}")
        if event.get("source") == "teacher" and "teacher" in progress.nll:
            parts.append(f"NLL {progress.nll['teacher']:.2f}")
        if source:
            continue  # their points and rewards say little: how many answers are correct is enough for one line
        if progress.reverse_kl is not None:
            parts.append(f"reverse KL {progress.reverse_kl:.3f}")
        if event.get("points") is not None:
            parts.append(f"{event['points']:.2f} points")
        elif event.get("reward") is not None:
            parts.append(f"reward {event['reward']:.2f}")
    return parts


def round_done(rollouts: list[dict[str, Any]], progress: RunView, *, speed: bool = True) -> str:
    """Return a one-line summary of a round; ``rollouts`` are its events. ``speed``: with its tokens per second."""
    parts = _verified(rollouts, progress)
    if not parts and progress.round and progress.unusable.get(progress.round - 1):
        parts.append("no usable completion from the API")
    if progress.groups:
        parts.append(f"{progress.different} of {progress.groups} groups useful")
    if speed and progress.tokens_per_second:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.round_seconds is not None:
        parts.append(duration(progress.round_seconds))
    if progress.round and (usd := progress.usd_by_round.get(progress.round - 1)):
        parts.append(dollars(usd))
    return f"Round {of_rounds(progress)}: {', '.join(parts)}."
