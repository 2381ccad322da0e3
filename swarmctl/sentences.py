"""Events as plain sentences, one each."""

from __future__ import annotations

from typing import Any

from swarmctl.progress import PARTS, Progress


def percent(share: float) -> str:
    """Return a share as ``38 %``."""
    return f"{100 * share:.0f} %"


def duration(seconds: float) -> str:
    """Return a time span as ``0.4 s``, ``48 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    if isinstance(seconds, float) and seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


def count(number: float) -> str:
    """Return a large number as ``0.27 M`` or ``494 M``, a small one with commas."""
    if number < 100_000:
        return f"{number:,.0f}"
    scale, unit = (1e9, "B") if number >= 1e9 else (1e6, "M")
    value = number / scale
    return f"{value:.3g} {unit}"


def size(bytes_: int) -> str:
    """Return an amount of memory as ``640 MiB`` or ``7.5 GiB``."""
    return f"{bytes_ / 2**30:.1f} GiB" if bytes_ >= 2**30 else f"{bytes_ / 2**20:.0f} MiB"


def start(event: dict[str, Any]) -> str:
    """Say what the trainer has built."""
    trainable, total = event.get("trainable"), event.get("parameters")
    what = "all " if trainable == total else f"{count(trainable)} of " if trainable else ""
    size = f"{what}{count(total)} parameters" if total else "the model"
    resumed = event.get("resumed_round")
    going_on = "" if resumed is None else f", going on after round {resumed}"
    return f"Training {size} on {event.get('device')} ({event.get('dtype')}){going_on}."


def phase(event: dict[str, Any]) -> str:
    """Say what is going on."""
    name = str(event.get("name"))
    text = name[:1].upper() + name[1:]
    done, total = event.get("done"), event.get("total")
    if done is None:
        return f"{text}."
    return f"{text}: {done:,} of {total:,}." if total else f"{text}: {done:,}."


def of_rounds(progress: Progress) -> str:
    """Return ``12 of 80``, or ``12`` where the node runs until stopped."""
    total = progress.rounds
    return f"{progress.round} of {total}" if total else f"{progress.round}"


def round_done(rollouts: list[dict[str, Any]], progress: Progress) -> str:
    """Say how a round went; ``rollouts`` are its events."""
    parts = []
    for event in rollouts:
        source = "" if event.get("source") == "policy" else f" from {event.get('source')}"
        if event.get("count"):
            parts.append(f"{event.get('correct')} of {event['count']} right{source}")
        if event.get("reward") is not None:
            parts.append(f"reward {event['reward']:.2f}{source}")
    if progress.tokens_per_second is not None:
        parts.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.round_seconds is not None:
        parts.append(duration(progress.round_seconds))
    return f"Round {of_rounds(progress)}: {', '.join(parts)}."


def evaluation(event: dict[str, Any], progress: Progress) -> str:
    """Say how accurate the policy is on held-out questions."""
    questions = event.get("questions")
    text = f"Accuracy {percent(event['accuracy'])} on {questions:,} held-out questions"
    before = progress.accuracy_before
    if progress.accuracy_after is None or before is None:
        return f"{text} before training."
    return f"{text} after round {event.get('round')} ({percent(before)} before training)."


def push(event: dict[str, Any]) -> str:
    """Say what has reached the hub."""
    return f"Pushed the model of round {event.get('round')} to {event.get('url')}"


def time_shares(seconds: dict[str, float]) -> list[tuple[str, float]]:
    """Return where the time went as shares of one, leaving out what took none."""
    total = sum(seconds.values())
    return [(part, seconds[part] / total) for part in PARTS if total and seconds.get(part)]
