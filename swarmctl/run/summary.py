"""The text printed at the start and at the end of a run."""

import os
import shlex
from pathlib import Path

from hivemind_exp.config import Config
from hivemind_exp.foreign_text import foreign
from hivemind_exp.models import smollm2
from hivemind_exp.money import dollars
from hivemind_exp.offload.judge import is_judged
from hivemind_exp.offload.settings import is_distilled, is_offloaded, is_relay, teaches_hints
from hivemind_exp.source_kinds import Kind
from hivemind_exp.swarm.identity import animal_name
from hivemind_exp.tasks.descriptions import DESCRIPTIONS
from hivemind_exp.tasks.registry import PRESETS, title
from swarmctl.nodes.directory import Node
from swarmctl.nodes.lookup import short_id
from swarmctl.paths import shown
from swarmctl.run.join_swarm import CharterMembership
from swarmctl.run.outcome import completed, continuation
from swarmctl.settings.command_line import JOIN, always_starts_over, shown_value
from swarmctl.settings.offload_target import OFFLOAD
from swarmctl.settings.resolve import Resolved
from swarmctl.settings.schema import dotted
from swarmctl.settings.sources import NAME
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.progress import AS_JUDGE, RunView
from swarmctl.terminal.sentences import (
    ENDINGS,
    beyond_chance,
    count,
    drop,
    duration,
    exchanged,
    gain,
    game,
    percent,
    several,
    spending,
    time_shares,
)

DEMO = "tiny"
"""The model that is a demonstration."""
_RISE = 0.15
"""Gain in accuracy that counts as a rise. Meaningless rewards stay below it (``benchmarks/demo.py``)."""


def introduction(node: Node, resolved: Resolved, membership: CharterMembership | None = None) -> list[str]:
    """Return lines on what the run is about to do."""
    config = resolved.config
    rounds = f"up to round {config.game.rounds}" if config.game.rounds else "until you stop it"
    state = "starting over" if node.starts_over else "resumed" if node.resumes else "new"
    tasks = ("task " if len(config.tasks) == 1 else "tasks ") + ", ".join(map(title, config.tasks))
    relay = is_relay(config)
    adapter = f" with LoRA rank {config.model.lora.rank}" if config.model.lora else ""
    what = "relay" if relay else f"GRPO on {shown_value(config.model.name)}{adapter}"
    lines = [
        f"Node {node.name} ({state}): {what}, {tasks}, {rounds}.",
        f"Settings: {changed_settings(resolved)}",
        f"Files: {shown(node.files.root)}",
    ]
    for name in PRESETS.keys() & {task.name for task in config.tasks}:
        lines.append(f"Task {name}: {DESCRIPTIONS[name]}.")
    if membership is not None:
        lines.append(f"Swarm {swarm_line(membership)}.")
        lines.append("The node shares its signed completions with the peers in its swarm.")
    if config.hub.repo:
        lines.append(f"The node pushes its model, with a card on what it learned from, {pushes(config)}.")
    keep = config.journal.keep_rounds
    if keep and state != "resumed" and not 0 < config.game.rounds <= keep:
        lines.append(
            f"The completions of the latest {keep:,} rounds are kept; older ones are deleted (journal.keep_rounds). "
            f"To keep them elsewhere: {typed(f'swarmctl rollouts export --node {shlex.quote(node.name)} -o FILE')}"
        )
    if config.model.name == DEMO and config.warmup.steps and not relay and state != "resumed":
        lines.append(
            "This is a demonstration. A tiny model is built on this machine and warmed up until it knows the answer "
            "format and answers some questions correctly. The only reward comes from the task's verifier."
        )
    return lines


def changed_settings(resolved: Resolved) -> str:
    """Return the profile, and the settings from other origins with their origin."""
    # The node and the swarm have lines of their own.
    given = [each for each in resolved.overrides if each.path not in (NAME, JOIN) and each.value != ""]
    # What an address typed with --offload stands for is in the lines about the provider.
    given = [each for each in given if each.origin != OFFLOAD or each.path[0] != "providers"]
    changed = [f"{dotted(each.path)} = {shown_value(each.value)} ({each.origin})" for each in given]
    return ", ".join([resolved.profile.label, *changed])


def swarm_line(membership: CharterMembership) -> str:
    """Return which swarm a node is in, and its name there."""
    charter, own = membership.charter, membership.identity
    known = "" if own is None else f"; peers see this node as {animal_name(own.peer_id)}"
    return f"{charter.name} ({short_id(charter.id)}), tasks and game fixed by its charter: {game(charter)}{known}"


def still_member(node: str, swarm: str) -> str:
    """Return how a node leaves a swarm that it joined without ever finishing a round."""
    return f"Node {node} stays in swarm {swarm}. To leave: {typed(f'swarmctl swarm leave --node {shlex.quote(node)}')}"


def suspended(node: str) -> str:
    """Return what Ctrl-Z in a view of a node means: the view stops, the node continues."""
    stop = typed(f"swarmctl stop {shlex.quote(node)}")
    return f"Node {node} continues. To show this view again: fg. To stop the node: {stop}"


def pushes(config: Config) -> str:
    """Return where a model is pushed, and when."""
    every = config.hub.every
    often = "" if not every else "every round" if every == 1 else f"every {every} rounds"
    last = "after the last round" if config.game.rounds else ""
    visible = "private" if config.hub.private else "public"
    return f"to {config.hub.repo} on the hub ({visible} if new) {' and '.join(filter(None, (often, last)))}"


def conclusion(
    node: Node, resolved: Resolved, progress: RunView, elapsed: float, *, failed: bool, first: bool
) -> list[str]:
    """Return lines on the result, the time spent, what is saved and how to continue.

    ``first``: the node has never finished its rounds before.
    """
    lines = [reached(progress, f", {duration(elapsed)} in this run", failed=failed)]
    if progress.seconds and (shares := time_shares(progress.seconds)):
        lines.append("Time in rounds: " + ", ".join(f"{part} {percent(share)}" for part, share in shares) + ".")
    if traded := exchanged(progress):
        lines.append(f"In the swarm: {traded}.")
    if is_offloaded(resolved.config):
        lines += _origins(resolved.config, progress)
    if is_judged(resolved.config):
        lines += _grades(resolved.config, progress)
    if spent := spending(progress):
        lines.append(_spent(progress, spent))
    demo = resolved.config.model.name == DEMO and (progress.stop or {}).get("reason") == "done"
    if worse := drop(progress):
        lines.append(f"warning: {worse}.")
    elif demo and progress.accuracy_after is not None and not is_offloaded(resolved.config):
        lines.append(lesson(progress))
    lines.append(_saved(progress, resumed=node.resumes))
    if progress.pushed is not None:
        lines.append(f"Pushed: {foreign(progress.pushed)}")
    if not failed:
        lines += next_steps(resolved, progress, rounds=progress.rounds or 0, first=first)
    return lines


def reached(progress: RunView, in_run: str = "", *, failed: bool = False) -> str:
    """Return how far the node got, and its accuracy. ``in_run``: the time of this run, in words."""
    reason = (progress.stop or {}).get("reason")
    word = "Failed" if failed else ENDINGS.get(str(reason), "Stopped")
    round_text = (
        f"{word} after {several(progress.round, 'round')}" if progress.round else f"{word} before the first round ended"
    )
    before, after = progress.accuracy_before, progress.accuracy_after
    accuracy = ""
    if before is not None and after is not None:
        change = gain(before, after, progress.questions)
        accuracy = f" Accuracy {change} on {progress.questions:,} held-out questions."
    return f"{round_text}{in_run}.{accuracy}"


def _spent(progress: RunView, text: str) -> str:
    """Return what offloading cost, in total and per point of accuracy that it may have gained."""
    before, after, questions = progress.accuracy_before, progress.accuracy_after, progress.questions
    price = ""
    if progress.learned_from_api and before is not None and after is not None and after > before and questions:
        usd = (progress.usd_total or 0.0) / (100 * (after - before))
        price = f": {dollars(usd)} per point of accuracy gained" if beyond_chance(before, after, questions) else ""
    return f"Spent over all runs: {text}{price}."


def _origins(config: Config, progress: RunView) -> list[str]:
    """Return what generated or scored the completions, or what hints brought; and why the API did not."""
    own, remote = progress.rollouts.get("policy", 0), progress.from_api
    reasons = _reasons(progress, judge=False)
    if not own + remote:
        lines = [f"In this run, no completion from the API was usable.{reasons}", *_check(config.node.name)]
        return lines if any(progress.unusable.values()) else []
    if config.offload.counts_as is Kind.POLICY:  # completions of the same kind, wherever they were generated
        text = f"While the server was unavailable, this machine generated.{reasons}"
        return [text, *_check(config.node.name)] if reasons else []
    if teaches_hints(config):
        return _hints(config, progress, reasons)
    if is_distilled(config):
        lines = [f"The API scored {progress.scored:,} of this machine's {own:,} completions.{reasons}"]
        return lines if progress.scored else [*lines, *_check(config.node.name)]
    if not remote:
        lines = [f"In this run, the API generated no completion; this machine generated all {own:,}.{reasons}"]
        return [*lines, *_check(config.node.name)] if reasons else lines
    here = f", this machine {percent(own / (own + remote))}" if own else ""
    share = percent(remote / (own + remote))
    text = f"In this run, the API generated {share} of the verified completions{here}.{reasons}"
    return [text, *_of_no_use(config, progress)]


def _of_no_use(config: Config, progress: RunView) -> list[str]:
    """Return a line if none of the API's completions was correct or taught the node anything."""
    taught = progress.learned_from_api or is_relay(config)  # a relay doesn't learn
    if progress.correct_from_api and taught:
        return []
    if progress.correct_from_api:
        return ["The node learned nothing from the API's completions."]
    without = "" if taught else ", and the node learned nothing from them"
    source = str(config.offload.provider)
    look = typed(shlex.join(["swarmctl", "rollouts", "show", "--node", config.node.name, "--source", source]))
    return [f"None of the API's completions was correct{without}. To read some:", f"  {look}"]


def _grades(config: Config, progress: RunView) -> list[str]:
    """Return how many completions the judge graded, and why not all."""
    if not progress.graded + progress.ungraded:
        return []
    total, reasons = progress.graded + progress.ungraded, _reasons(progress, judge=True)
    lines = [f"The judge graded {progress.graded:,} of this machine's {total:,} completions.{reasons}"]
    return lines if progress.graded else [*lines, *_check(config.node.name)]


def _reasons(progress: RunView, *, judge: bool) -> str:
    """Return sentences on why providers were not used."""
    # What the node did about it follows the last semicolon; a reason may contain others.
    told = [(name, message) for name, message in progress.outages.items() if name.startswith(AS_JUDGE) is judge]
    # An outage that is over is not why the run ended. A cap names no provider.
    return "".join(
        f" {'It was unavailable for a while: ' if name and name not in progress.down else ''}"
        f"{message.rpartition('; ')[0] or message}."
        for name, message in told
    )


def _hints(config: Config, progress: RunView, reasons: str) -> list[str]:
    """Return what the API's hints brought. ``reasons``: sentences on why it was unavailable."""
    if progress.hints:
        learned = several(progress.hints_taught, "question")
        text = f"The API wrote {several(progress.hints, 'hint')}. With them, the node learned from {learned}."
        return [text + reasons]
    if reasons:
        return [f"The API wrote no hint.{reasons}", *_check(config.node.name)]
    return ["The API wrote no hint: no question had only wrong answers."]


def _check(node: str) -> list[str]:
    """Return the command that checks a node's providers."""
    return ["Check the provider:", f"  {typed(shlex.join(['swarmctl', 'doctor', 'api', '--node', node]))}"]


def lesson(progress: RunView) -> str:
    """Return what a demonstration shows, without overstating it."""
    size = (progress.start or {}).get("parameters")
    model = f"a model of {count(size)} parameters" if size else "a small model"
    if (progress.accuracy_after or 0) - (progress.accuracy_before or 0) < _RISE:
        return (
            f"What this shows: not much yet. By rewarding correct answers, GRPO strengthens a skill that {model} "
            "already has. It needs some correct answers to start with, and more rounds."
        )
    return (
        f"What this shows: {model} already had a skill, and GRPO strengthened it by rewarding correct answers. "
        "It taught no new skill."
    )


def _saved(progress: RunView, *, resumed: bool) -> str:
    if progress.checkpoint:
        return f"Saved: {shown(Path(progress.checkpoint))}"
    if progress.round or resumed:
        return "Saved: every finished round."
    return "Nothing to save: no round finished."


def next_steps(resolved: Resolved, progress: RunView, *, rounds: int, first: bool) -> list[str]:
    """Return how to continue.

    ``rounds``: planned, 0 if the node runs until you stop it. ``first``: the node has never finished its rounds before,
    so a demo suggests a real model.
    """
    config, done = resolved.config, (progress.stop or {}).get("reason") == "done"
    name, again = config.node.name, typed(continuation(config.node.name))
    following = (progress.stop or {}).get("next")
    if following:
        lines = ["Continue:", f"  {typed(completed(following, continuation(name)))}"]
    elif always_starts_over(resolved):
        lines = ["Run again, starting over:", f"  {again}"]
    elif done and rounds:
        lines = ["Continue:", f"  {again} --rounds {2 * rounds}"]
        if config.swarm.charter is None:  # in a swarm, no node can
            lines += ["Start over:", f"  {again} --fresh"]
    else:
        lines = ["Resume:", f"  {again}"]
    if done and progress.checkpoint and not is_relay(config):
        compare = typed(shlex.join(["swarmctl", "sample", name]))
        lines = ["Compare its answers before and after training:", f"  {compare}", *lines]
    if first and done and config.model.name == DEMO:
        facts = [] if smollm2.stored(os.environ) else [f"{smollm2.DOWNLOAD} to download"]
        facts += ["hours without a GPU"] if (progress.start or {}).get("device") == "cpu" else []
        about = f" ({'; '.join(facts)})" if facts else ""
        lines += [
            f"Next, train a real language model{about}:",
            f"  {typed('swarmctl run --profile smol')}",
        ]
    return lines
