"""The words at the start and at the end of a run."""

from __future__ import annotations

from hivemind_exp.config import Config
from swarmctl.lastrun import shown_value
from swarmctl.launcher import typed
from swarmctl.nodes import Node
from swarmctl.paths import shown
from swarmctl.progress import Progress
from swarmctl.resolve import Resolved
from swarmctl.sentences import count, duration, percent, time_shares
from swarmctl.verdict import continuation

_DEMO = "tiny"


def introduction(node: Node, resolved: Resolved) -> list[str]:
    """Say what is about to happen."""
    config = resolved.config
    rounds = f"up to round {config.game.rounds}" if config.game.rounds else "until stopped"
    state = "starts over at every run" if config.node.fresh else "goes on" if node.resumes else "new"
    tasks = ("task " if len(config.tasks) == 1 else "tasks ") + ", ".join(task.name for task in config.tasks)
    adapter = f" with LoRA of rank {config.model.lora.rank}" if config.model.lora else ""
    lines = [
        f"Node {node.name} ({state}): GRPO on {shown_value(config.model.name)}{adapter}, {tasks}, {rounds}.",
        f"Settings: {resolved.profile.label}. Files: {shown(node.files.root)}",
    ]
    if config.hub.repo:
        lines.append(f"Leaves this machine: the model and a card that says what it learned from, {pushes(config)}.")
    if config.model.name == _DEMO:
        lines.append(
            "A demonstration: the model is built here, tiny, and warmed up until it knows the format and is right on a "
            "minority of questions. The only reward is the task's own verifier."
        )
    return lines


def pushes(config: Config) -> str:
    """Say where a model is pushed, and when."""
    every = config.hub.every
    often = "" if not every else "every round" if every == 1 else f"every {every} rounds"
    last = "after the last round" if config.game.rounds else ""
    visible = "private" if config.hub.private else "public"
    return f"to {config.hub.repo} on the hub ({visible} if it is new) {' and '.join(filter(None, (often, last)))}"


def conclusion(node: Node, resolved: Resolved, progress: Progress, elapsed: float, *, failed: bool) -> list[str]:
    """Say what was reached, where the time went, what is saved and how to go on."""
    lines = [_reached(progress, elapsed, failed=failed)]
    if progress.seconds and (shares := time_shares(progress.seconds)):
        lines.append("Time in rounds: " + ", ".join(f"{part} {percent(share)}" for part, share in shares) + ".")
    if resolved.config.model.name == _DEMO and progress.accuracy_after is not None:
        size = (progress.start or {}).get("parameters")
        lines.append(
            f"What this shows: a model of {count(size) if size else 'few'} parameters already had a skill, and GRPO "
            "selected it by rewarding right answers. It taught no new one."
        )
    fresh = resolved.config.node.fresh
    lines.append(_saved(progress, resumed=node.resumes))
    if progress.pushed is not None:
        lines.append(f"Pushed: {progress.pushed}")
    lines.append(f"Files: {shown(node.files.root)}")
    if not failed:
        lines += _next_steps(node.name, progress, fresh=fresh, demo=resolved.config.model.name == _DEMO)
    return lines


def _reached(progress: Progress, elapsed: float, *, failed: bool) -> str:
    reason = (progress.stop or {}).get("reason")
    word = "Failed" if failed else {"done": "Done", "limit": "Limit reached"}.get(str(reason), "Stopped")
    round_text = f"{word} after {progress.round} rounds" if progress.round else f"{word} before the first round ended"
    before, after = progress.accuracy_before, progress.accuracy_after
    accuracy = ""
    if before is not None and after is not None:
        accuracy = f" Accuracy {percent(before)} → {percent(after)} on {progress.questions:,} held-out questions."
    return f"{round_text}, {duration(elapsed)} in this run.{accuracy}"


def _saved(progress: Progress, *, resumed: bool) -> str:
    if progress.checkpoint:
        return f"Saved: {progress.checkpoint}"
    if progress.round or resumed:
        return "Saved: every round that was finished."
    return "Nothing to save: no round was finished."


def _next_steps(name: str, progress: Progress, *, fresh: bool, demo: bool) -> list[str]:
    done = (progress.stop or {}).get("reason") == "done"
    again = typed(continuation(name))
    if fresh:
        lines = ["Run again, from the start:", f"  {again}"]
    elif done and progress.rounds:
        lines = ["Go further:", f"  {again} --rounds {2 * progress.rounds}"]
    else:
        lines = ["Go on:", f"  {again}"]
    if demo and done:
        lines += ["Next, a real model:", f"  {typed('swarmctl run --profile default')}"]
    return lines
