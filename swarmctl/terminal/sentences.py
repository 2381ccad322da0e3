"""Turn events and numbers into plain text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hivemind_exp.foreign_text import foreign
from hivemind_exp.intervals import in_percent
from hivemind_exp.money import digits, dollars
from hivemind_exp.run_record import PASSING
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.devices import devices
from swarmctl.terminal.options import Level
from swarmctl.terminal.pace import without_gpu
from swarmctl.terminal.progress import AS_JUDGE, PARTS, RunView

if TYPE_CHECKING:  # fast commands avoid importing its cryptography
    from hivemind_exp.swarm.charter import Charter
    from hivemind_exp.tasks.base import RewardTerm


def percent(share: float) -> str:
    """Return a share as ``38 %``."""
    return f"{100 * share:.0f} %"


def gain(before: float, after: float | None, questions: int | None = None) -> str:
    """Return an accuracy as ``38 % → 75 %``, or ``38 %`` if only the first is known.

    ``questions``: how many it was measured on; adds the intervals.
    """
    first = measured(before, questions)
    return first if after is None else f"{first} → {measured(after, questions)}"


def measured(share: float, number: int | None) -> str:
    """Return a share measured on ``number`` samples, with its 95 % interval, as ``38 % (31–45)``."""
    return f"{percent(share)} ({in_percent(share, number)})" if number else percent(share)


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
    """Return a large number as ``0.27 M`` or ``494 M``, and a small one with commas."""
    if number < 100_000:
        return f"{number:,.0f}"
    scale, unit = (1e9, "B") if number >= 1e9 else (1e6, "M")
    value = number / scale
    return f"{value:.3g} {unit}"


def several(number: int, what: str) -> str:
    """Return ``1 group`` or ``1,200 groups``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def size(bytes_: int) -> str:
    """Return an amount of memory as ``12 KiB``, ``640 MiB`` or ``7.5 GiB``."""
    if bytes_ < 2**20:
        return f"{bytes_ / 2**10:.0f} KiB"
    return f"{bytes_ / 2**30:.1f} GiB" if bytes_ >= 2**30 else f"{bytes_ / 2**20:.0f} MiB"


def ended(text: str) -> str:
    """Return a sentence with its full stop. (Messages have none where a command to try follows.)"""
    return text if text.endswith((".", "!", "?", ":", "…")) else f"{text}."


def start(event: dict[str, Any]) -> str:
    """Return a sentence about the model that the trainer loaded."""
    if event.get("model") is None:
        return "Relay: the provider generates completions and this machine verifies them; no model is loaded."
    trainable, total = event.get("trainable"), event.get("parameters")
    what = "all " if trainable == total else f"{count(trainable)} of " if trainable else ""
    size = f"{what}{count(total)} parameters" if total else "the model"
    resumed = event.get("resumed_round")
    after = f"after round {resumed}" if resumed else "before the first round"
    resuming = "" if resumed is None else f", resuming {after}"
    pace = without_gpu(event) if resumed is None else ""
    return f"Training {size} on {devices(event)} ({event.get('dtype')}){resuming}.{pace}{_repeats(event)}"


def _repeats(event: dict[str, Any]) -> str:
    """Return a sentence on the rounds that are not in the checkpoint yet; empty if there are none."""
    resumed, saved = event.get("resumed_round"), event.get("checkpoint_round")
    if not resumed or saved == resumed or "checkpoint_round" not in event:
        return ""
    where = f"The checkpoint is from round {saved}" if saved else "There is no checkpoint yet"
    return f" {where}: the steps of later rounds are repeated from the journal, without generating anything again."


def phase(event: dict[str, Any]) -> str:
    """Return a sentence about the current phase."""
    name = str(event.get("name"))
    name = name if event.get("round") is None else f"in round {event['round'] + 1:,}, {name}"
    text = name[:1].upper() + name[1:]
    done, total = event.get("done"), event.get("total")
    if done is None:
        return f"{text}."
    if event.get("percent"):
        return f"{text}: {done} %."
    return f"{text}: {done:,} of {total:,}." if total else f"{text}: {done:,}."


def doing(progress: RunView) -> str:
    """Return what a run is doing, as the end of a sentence that begins with "Still"."""
    if progress.stopping:
        return "stopping"
    for names, fallback in _unavailable(progress, progress.down):
        if fallback is None:
            return f"waiting for {', '.join(names)}"
    if progress.phase is not None:
        text = phase(progress.phase).removesuffix(".")
        return text[:1].lower() + text[1:]
    return "starting" if progress.start is None else f"in round {(progress.round or 0) + 1}"


def of_rounds(progress: RunView) -> str:
    """Return ``12 of 80``, or ``12`` if the node runs until you stop it."""
    total = progress.rounds
    return f"{progress.round} of {total}" if total else f"{progress.round}"


def seconds_left(progress: RunView) -> float | None:
    """Return the seconds until the last round ends, at the latest round's speed; None without a last round."""
    if not progress.rounds or progress.round is None or progress.round_seconds is None:
        return None
    return max(0, progress.rounds - progress.round) * progress.round_seconds


def beyond_chance(before: float, after: float, questions: int) -> bool:
    """Whether two accuracies differ by more than two standard errors of their difference."""
    return abs(after - before) > 2 * math.sqrt((before * (1 - before) + after * (1 - after)) / questions)


def dropped(progress: RunView) -> bool:
    """Whether the accuracy is lower than before training, by more than chance would explain."""
    before, after = progress.accuracy_before, progress.accuracy_after
    if before is None or after is None or not progress.questions:
        return False
    return after < before and beyond_chance(before, after, progress.questions)


def drop(progress: RunView) -> str | None:
    """Return what a lower accuracy than before training suggests; None if chance may explain it."""
    if not dropped(progress):
        return None
    change = gain(progress.accuracy_before or 0.0, progress.accuracy_after, progress.questions)
    if progress.scored:
        advice = "Use another teacher (offload.model), or learn from its answers (offload.teach = answers)"
    elif progress.learned_from_api:
        advice = (
            "Look at what the API writes (swarmctl rollouts show). Use another model (offload.model), a smaller "
            "offload.share, or a smaller train.off_policy_weight"
        )
    else:
        advice = "Try a smaller train.learning_rate"
    return f"accuracy fell by more than chance would explain ({change}). {advice}"


def spending(progress: RunView) -> str | None:
    """Return what the node has spent, its cap and, during a run, what is reserved; None if it is nothing."""
    reserved = 0.0 if progress.stop else progress.usd_reserved
    if not progress.usd_total and not reserved:
        return None
    limit = "" if progress.usd_cap is None else f" of {digits(progress.usd_cap)}"
    held = f" + {dollars(reserved)} reserved" if reserved else ""
    return f"{digits(progress.usd_total or 0.0)}{limit} USD{held}"


def outages(progress: RunView) -> list[str]:
    """Return which providers are no longer asked and why, and which are unavailable and what the node does then."""
    aside = progress.set_aside
    found = [f"{name} no longer asked: {aside[name]}" for name in progress.down if name in aside]
    for names, fallback in _unavailable(progress, [name for name in progress.down if name not in aside]):
        found.append(f"{', '.join(names)} unavailable, {'falling back' if fallback else 'waiting'}")
    return found


def _unavailable(progress: RunView, names: Iterable[str]) -> Iterator[tuple[list[str], str | None]]:
    """Yield those of the unavailable providers that generate, and those that grade, each with what is used instead."""
    names = list(names)
    for is_judge in (False, True):
        down = [name for name in progress.down if name.startswith(AS_JUDGE) is is_judge]
        if shown := [name for name in down if name in names]:
            yield shown, progress.down[down[-1]]


_WHO = {"policy": "own", "policy_text": "own, by the API", "peer": "peers"}


def learning(progress: RunView) -> str | None:
    """Return how far the model is from its teacher, how likely the text of others is to it, and each source's part of
    the gradient; None if only the node's own completions were learned from."""
    parts = []
    if progress.reverse_kl is not None:
        parts.append(f"{progress.reverse_kl:.3f} nats per token from the teacher (reverse KL)")
    if "teacher" in progress.nll:
        parts.append(f"teacher's text {progress.nll['teacher']:.2f} nats per token")
    if "hinted" in progress.nll:
        parts.append(f"hinted {progress.nll['hinted']:.2f} nats per token")
    if len(progress.gradients) > 1:
        known = sorted(progress.gradients.items(), key=lambda item: ([*_WHO, item[0]].index(item[0]), item[0]))
        parts.append(f"gradient norm: {', '.join(f'{_WHO.get(kind, kind)} {norm:.2g}' for kind, norm in known)}")
    return "; ".join(parts) or None


def asked(curriculum: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return each task's share of the questions and its level: ``chain_sum 62 % (level 2 of 6)``."""
    found = []
    for task, each in sorted(curriculum.items(), key=lambda item: -(item[1].get("share") or 0)):
        level = each.get("level")
        of_levels = "" if level is None else f" (level {level + 1:.0f} of {each.get('levels') or 0:.0f})"
        found.append(f"{foreign(task)} {percent(each.get('share') or 0)}{of_levels}")
    return found


def hints(progress: RunView) -> str:
    """Return how many hints there were, and how many of them helped."""
    return f"{several(progress.hints, 'hint')} ({progress.hints_taught:,} taught something)"


def evaluation(event: dict[str, Any], progress: RunView) -> str:
    """Return a sentence about the policy's accuracy on held-out questions."""
    questions = event.get("questions")
    text = f"Accuracy {measured(event['accuracy'], questions)} on {questions:,} held-out questions"
    before = progress.accuracy_before
    if progress.accuracy_after is None or before is None:
        return f"{text} before training."
    worse = " This drop is larger than chance would explain." if dropped(progress) else ""
    return f"{text} after round {event.get('round')}, {measured(before, questions)} before training.{worse}"


def in_touch(peers: int) -> str:
    """Return how many of its swarm's peers a node hears from."""
    return f"{several(peers, 'peer')} in touch" if peers else "no peers in touch"


def exchanged(progress: RunView) -> str | None:
    """Return what was shared with peers and learned from them; None if nothing was."""
    theirs = progress.rollouts.get("peer", 0)
    if not progress.shared and not theirs:
        return None
    shared = f"shared {several(progress.shared, 'group')} ({size(progress.shared_bytes)})"
    if not theirs:
        return shared
    group_size = (progress.start or {}).get("group_size")
    learned = several(theirs // group_size, "peer group") if group_size else several(theirs, "peer completion")
    return f"{shared}, learned from {learned}"


def _workers(event: dict[str, Any]) -> str:
    """Return what happened to task workers, and how that affects the rewards."""
    lost = f"{several(event.get('replaced') or 0, 'task worker')} died or got stuck; new ones repeated their work"
    left = event.get("unverified") or 0
    if not left:
        return f"{lost}, so no reward is lost"
    return f"{lost}. {several(left, 'completion')} could not be verified and will not be learned from"


def _pushed(event: dict[str, Any]) -> str:
    return f"Pushed the model of round {event.get('round')} to {foreign(event.get('url'))}."


def _noted(event: dict[str, Any]) -> str:
    return ended(str(event.get("message")))


def _advised(event: dict[str, Any]) -> str:
    """Return a warning; if a key was rejected, with the command that saves another one."""
    if not event.get("next"):
        return _noted(event)
    return f"{_noted(event)} Save another key with `{typed(str(event['next']))}`; the node uses it from its next start."


def _curriculum(event: dict[str, Any]) -> str | None:
    """Return the tasks' shares of the questions; None if there is only one task, whose level a note reports."""
    tasks = event.get("tasks") or {}
    if len(tasks) < 2:
        return None
    return f"From round {event['round'] + 1:,} on, the questions are {', '.join(asked(tasks))}."


def _passing(event: dict[str, Any]) -> str | None:
    """Return the sentence of an error that the run survives. Of another one, ``ending`` returns it."""
    return f"error: {event.get('message')}" if event.get("code") in PASSING else None


def _warned(about: Callable[[dict[str, Any]], str | None]) -> Callable[[dict[str, Any]], str | None]:
    """Make a warning of what ``about`` returns."""

    def warn(event: dict[str, Any]) -> str | None:
        told = about(event)
        return told and ended(f"warning: {told}")

    return warn


def _ungraded(event: dict[str, Any]) -> str | None:
    count = event.get("ungraded")
    return f"the judge did not grade {several(count, 'completion')} of round {event['round'] + 1}" if count else None


def _unscored(event: dict[str, Any]) -> str | None:
    """Return a sentence if a teacher scored only some completions. If it scored none, another warning says why."""
    count = event.get("unscored") if event.get("scored") else 0
    return f"the teacher did not score {several(count, 'completion')} of round {event['round'] + 1}" if count else None


NOTABLE: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "start": start,
    "push": _pushed,
    "note": _noted,
    "curriculum": _curriculum,
    "warning": _warned(_advised),
    "judge": _warned(_ungraded),
    "scores": _warned(_unscored),
    "workers": _warned(_workers),
    "error": _passing,
}
"""Events that every view shows the same way: what returns the sentence, or None if there is nothing to report. A
sentence that begins with "warning: " makes the event a warning for ``level``."""


def notable(event: dict[str, Any]) -> str | None:
    """Return the sentence of an event that every view shows the same way; None for other events."""
    sentence = NOTABLE.get(event["event"])
    return None if sentence is None else sentence(event)


def level(event: dict[str, Any]) -> Level:
    """Return how severe an event is: its sentence says so."""
    if event["event"] == "error":
        return Level.ERROR
    return Level.WARNING if (notable(event) or "").startswith("warning: ") else Level.INFO


ENDINGS = {"done": "Done", "signal": "Stopped", "limit": "Limit reached"}
"""Reasons of ``stop`` events, as the beginning of a sentence; any other is a failure."""


def ending(event: dict[str, Any]) -> str | None:
    """Return the sentence of an event that ends a run; None for other events."""
    if event["event"] == "error" and event.get("code") not in PASSING:
        return f"error: {event.get('message')}"
    if event["event"] != "stop":
        return None
    word, rounds = ENDINGS.get(str(event.get("reason")), "Failed"), event.get("round")
    return f"{word} after {several(rounds, 'round')}." if rounds else f"{word} before the first round ended."


def time_shares(seconds: dict[str, float]) -> list[tuple[str, float]]:
    """Return each part's share of the time (0 to 1), without parts that took none."""
    total = sum(seconds.values())
    return [(part, seconds[part] / total) for part in PARTS if total and seconds.get(part)]


def game(charter: Charter) -> str:
    """Return a description of a swarm's game."""
    stages = f", {charter.stage_time} s per stage" if charter.game == "study-group" else ""
    curriculum = ", curriculum allowed" if charter.curriculum else ""
    return f"{charter.game}, groups of {charter.group_size}{stages}{curriculum}"


def points(terms: Sequence[RewardTerm]) -> str:
    """Return a sentence on the terms of a reward."""
    known = [term.maximum for term in terms if term.maximum is not None]
    most = f" of {sum(known):g}" if len(known) == len(terms) else ""
    return f"{sum(term.value for term in terms):.4g}{most} points: {', '.join(map(_term, terms))}"


def _term(term: RewardTerm) -> str:
    most = "" if term.maximum is None else f" of {term.maximum:g}"
    return f"{term.name} {term.value:.3g}{most}" + (f" ({term.why})" if term.why else "")
