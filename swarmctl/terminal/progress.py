"""The state of a run, accumulated from its events. Every view and the summary read it."""

from dataclasses import dataclass, field
from typing import Any

from hivemind_exp.foreign_text import foreign
from hivemind_exp.intervals import wilson
from hivemind_exp.model_names import short_name
from hivemind_exp.run_record import PASSING

_OF_API = ("teacher", "policy_text", "relay")
"""Kinds of source that are an API."""
_HINTED = "hinted"
"""The kind of completions that the node's own model wrote with an API's hint."""
AS_JUDGE = "the judge "
"""Begins the name of a provider in its use as the judge, as it may also generate."""
CALIBRATING = "trying prompt styles"
"""The phase in which a new node chooses how it asks."""
PARTS = ("generate", "verify", "train", "share", "other")
_KEPT = {"checkpoint": ("checkpoint", "path"), "push": ("pushed", "url"), "curriculum": ("curriculum", "tasks")}
"""Events from which only one field is kept: (attribute, field)."""


@dataclass(slots=True)
class RunView:
    """One run so far. Values that no event has reported are None."""

    start: dict[str, Any] | None = None
    phase: dict[str, Any] | None = None
    stopping: bool = False
    """Whether the trainer was asked to stop."""
    round: int | None = None
    """Rounds finished since the node was created. (``round`` in an event counts from 0.)"""
    steps: int | None = None
    accuracy: dict[int, float] = field(default_factory=dict)
    """Held-out accuracy by round, since the node was created."""
    questions: int | None = None
    rewards: dict[int, float] = field(default_factory=dict)
    """Mean reward of the node's own completions by round, in this run."""
    tokens_per_second: float | None = None
    round_seconds: float | None = None
    seconds: dict[str, float] | None = None
    """Seconds that this run's rounds spent on each part."""
    groups: int | None = None
    """Groups in the latest round with completions of the node's own model."""
    different: int | None = None
    """Those of them that teach something."""
    curriculum: dict[str, dict[str, Any]] | None = None
    """By task: its share of the questions and its level of difficulty. None without ``game.curriculum``."""
    rollouts: dict[str, int] = field(default_factory=dict)
    """Completions by kind of source, in this run."""
    correct_from_api: int = 0
    """Those of an API's completions in this run that are correct."""
    learned: dict[str, int] = field(default_factory=dict)
    """Completions with nonzero weight in optimizer steps, by kind of source, in this run."""
    gradients: dict[str, float] = field(default_factory=dict)
    """Norm of each source's part of the latest step's gradient, by kind."""
    nll: dict[str, float] = field(default_factory=dict)
    """Negative log-likelihood of others' text in the latest step, in nats per token, by kind."""
    hints: int = 0
    """Hints from an API in this run."""
    hints_taught: int = 0
    """Those with which the node wrote an answer that it learned."""
    reverse_kl: float | None = None
    """How far the node's model is from its teacher in the latest step, in nats per token; None without scores."""
    scored: int = 0
    """The node's own completions that a teacher scored in this run."""
    graded: int = 0
    """The node's own completions that a judge graded in this run."""
    ungraded: int = 0
    """Those for which the judge had no grade."""
    usd_total: float | None = None
    """Dollars spent since the node was created; None without offloading."""
    usd_reserved: float | None = None
    """Dollars reserved for requests in flight, which may cost less."""
    usd_cap: float | None = None
    usd_by_round: dict[int, float] = field(default_factory=dict)
    unusable: dict[int, int] = field(default_factory=dict)
    """Completions in each round that were requested from an API and came without a usable text, or not at all."""
    requests: int = 0
    """Requests to providers in this run."""
    providers: dict[str, None] = field(default_factory=dict)
    """What generated in this run, as ``provider:model`` for people, in order of appearance."""
    down: dict[str, str | None] = field(default_factory=dict)
    """What generates instead of each provider that is unavailable; None if the node waits for it. A judge's name begins
    with ``AS_JUDGE``, here and in the next two."""
    set_aside: dict[str, str] = field(default_factory=dict)
    """Why the run does not ask some of these providers again."""
    outages: dict[str, str] = field(default_factory=dict)
    """Why providers were not used, in this run: the latest reason for each, or for all (an empty name)."""
    announced: bool = False
    """Whether an ``offload`` event has come since the latest start."""
    peers: int | None = None
    """Peers in touch; None if the node is in no swarm."""
    lost_touch: bool = False
    """Whether there were peers in touch, and now there are none."""
    shared: int = 0
    """Groups shared with peers in this run."""
    shared_bytes: int = 0
    share_seconds: float | None = None
    """Seconds spent sharing in the latest round."""
    checkpoint: str | None = None
    pushed: str | None = None
    """URL of the newest commit on the hub."""
    error: dict[str, Any] | None = None
    stop: dict[str, Any] | None = None

    def apply(self, event: dict[str, Any]) -> None:
        """Apply one event of this run. Unknown events are ignored."""
        name = event["event"]
        if name in _KEPT:
            attribute, key = _KEPT[name]
            setattr(self, attribute, event.get(key))
        elif (take := getattr(self, f"_on_{name}", None)) is not None:
            take(event)

    @property
    def calibrating(self) -> bool:
        """Whether the node is choosing its prompt style. It has saved nothing yet, and starts again."""
        return self.phase is not None and self.phase.get("name") == CALIBRATING

    @property
    def starting(self) -> bool:
        """Whether a run has begun and not loaded its model yet. Until then, ``start`` is the previous run's."""
        return self.start is None or (self.stop is not None and self.phase is not None)

    @property
    def from_api(self) -> int:
        """Completions from an API in this run."""
        return sum(self.rollouts.get(kind, 0) for kind in _OF_API)

    @property
    def learned_from_api(self) -> int:
        """Completions that an API wrote, helped with hints or scored, and that the node learned from in this run."""
        return sum(self.learned.get(kind, 0) for kind in (*_OF_API, _HINTED)) + self.scored

    @property
    def rounds(self) -> int | None:
        """Rounds planned for the node in total; None if it runs until you stop it."""
        return (self.start or {}).get("rounds") or None

    @property
    def accuracy_before(self) -> float | None:
        return self.accuracy[min(self.accuracy)] if self.accuracy else None

    @property
    def accuracy_after(self) -> float | None:
        """The latest accuracy; None while only the one before training is known."""
        return self.accuracy[max(self.accuracy)] if len(self.accuracy) > 1 else None

    @property
    def latest_accuracy(self) -> float | None:
        return self.accuracy_before if self.accuracy_after is None else self.accuracy_after

    @property
    def interval(self) -> list[float] | None:
        """The 95 % interval of the latest accuracy."""
        return self._interval(self.latest_accuracy)

    @property
    def interval_before(self) -> list[float] | None:
        """The 95 % interval of the accuracy before training."""
        return self._interval(self.accuracy_before)

    def _interval(self, accuracy: float | None) -> list[float] | None:
        if accuracy is None or not self.questions:
            return None
        return [round(bound, 6) for bound in wilson(accuracy, self.questions)]

    def _on_start(self, event: dict[str, Any]) -> None:
        self.start = event
        self.stop = self.error = None
        self.round = event.get("resumed_round")
        if not self.announced:
            self.down.clear()  # the run before was killed during an outage; this one asks no provider
        self.announced = False

    def _on_phase(self, event: dict[str, Any]) -> None:
        self.phase = event

    def _on_round(self, event: dict[str, Any]) -> None:
        self.phase = None
        self.round = event["round"] + 1
        if event.get("replayed"):
            return  # its time was already counted in the run that crashed
        self.tokens_per_second = event.get("tokens_per_second")
        spent = event.get("seconds") or {}
        self.round_seconds = sum(spent.get(part) or 0 for part in PARTS)
        self.share_seconds = spent.get("share")
        self.groups, self.different = event.get("groups"), event.get("different")
        self.seconds = {part: (self.seconds or {}).get(part, 0) + (spent.get(part) or 0) for part in PARTS}

    def _on_rollouts(self, event: dict[str, Any]) -> None:
        # In a round with several stages, only the answer stage is comparable with other rounds and other games.
        answers = event.get("stage", "answer") == "answer"
        if answers and event.get("source") == "policy" and event.get("reward") is not None:
            self.rewards[event["round"]] = event["reward"]
        if not event.get("replayed"):
            self.phase = None
            source = str(event.get("source"))
            self.rollouts[source] = self.rollouts.get(source, 0) + (event.get("count") or 0)
            self.correct_from_api += (event.get("correct") or 0) if source in _OF_API else 0

    def _on_step(self, event: dict[str, Any]) -> None:
        if self.steps != event["step"] + 1:
            self.gradients, self.nll, self.reverse_kl = {}, {}, None
        if event.get("reverse_kl") is not None:
            self.reverse_kl = event["reverse_kl"]
        for values, key in ((self.gradients, "source_grad_norm"), (self.nll, "nll")):
            if event.get(key) is not None:
                values[str(event.get("source"))] = event[key]
        self.steps = event["step"] + 1
        if not event.get("replayed"):
            source = str(event.get("source"))
            self.learned[source] = self.learned.get(source, 0) + (event.get("source_rows", event.get("rows")) or 0)

    def _on_scores(self, event: dict[str, Any]) -> None:
        self.phase = None
        self.scored += event.get("scored") or 0

    def _on_judge(self, event: dict[str, Any]) -> None:
        self.phase = None
        self.graded += event.get("graded") or 0
        self.ungraded += event.get("ungraded") or 0

    def _on_eval(self, event: dict[str, Any]) -> None:
        if event.get("split") == "heldout" and event.get("accuracy") is not None:
            self.phase = None
            self.accuracy[event["round"]] = event["accuracy"]
            self.questions = event.get("questions")

    def _on_offload(self, event: dict[str, Any]) -> None:
        self.announced = True
        self.down.clear()
        self._take_usd(event)

    def _on_warning(self, event: dict[str, Any]) -> None:
        provider = (AS_JUDGE if event.get("judge") else "") + str(event.get("provider") or "")
        if event.get("code") in ("provider_down", "limit"):
            self.outages[provider] = str(event.get("message"))
        match event.get("code"):
            case "provider_down" if provider:
                self.down[provider] = event.get("fallback")
                self.set_aside.pop(provider, None)
                if why := event.get("set_aside"):
                    self.set_aside[provider] = str(why)
                self.phase = None  # if the node was waiting for it, it waits no longer, or waits for another reason
            case "provider_back":
                self.down.pop(provider, None)
            case "engine_restarted":
                self.down.clear()  # the new process asks every provider again

    def _take_usd(self, event: dict[str, Any]) -> None:
        self.usd_total, self.usd_cap = event.get("usd_total"), event.get("usd_cap")
        self.usd_reserved = event.get("usd_reserved")

    def _on_spend(self, event: dict[str, Any]) -> None:
        self.phase = None  # the test request is done, or a round's completions are there
        self._take_usd(event)
        self.usd_by_round[event["round"]] = self.usd_by_round.get(event["round"], 0.0) + (event.get("usd") or 0.0)
        self.unusable[event["round"]] = self.unusable.get(event["round"], 0) + (event.get("lost") or 0)
        self.requests += event.get("requests") or 0
        self.providers[f"{event.get('provider')}:{foreign(short_name(str(event.get('model'))), 100)}"] = None

    def _on_hints(self, event: dict[str, Any]) -> None:
        self.hints += event.get("hints") or 0
        self.hints_taught += event.get("taught") or 0

    def _on_peers(self, event: dict[str, Any]) -> None:
        before, self.peers = self.peers, event.get("peers")
        self.lost_touch = not self.peers and (bool(before) or self.lost_touch)

    def _on_share(self, event: dict[str, Any]) -> None:
        self.shared += event.get("groups") or 0
        self.shared_bytes += event.get("bytes") or 0

    def _on_error(self, event: dict[str, Any]) -> None:
        if event.get("code") not in PASSING:
            self.error = event

    def _on_stop(self, event: dict[str, Any]) -> None:
        # A node that stops while it repeats steps reports those, but has not lost the later rounds.
        rounds = [each for each in (self.round, event.get("round")) if each is not None]
        self.round = max(rounds, default=None)
        self.stop = event | {"round": self.round}
        self.phase = None
        for name in ("steps", "checkpoint"):
            if event.get(name) is not None:
                setattr(self, name, event[name])


def result(progress: RunView, node: str) -> dict[str, Any]:
    """Return the last object that ``run --json`` prints. Unknown values are None."""
    seconds = progress.seconds or dict.fromkeys(PARTS)
    return {
        "schema": 1,
        "node": node,
        "rounds": progress.round,
        "steps": progress.steps,
        "accuracy_before": progress.accuracy_before,
        "accuracy_after": progress.accuracy_after,
        "accuracy_interval": progress.interval,
        "accuracy_before_interval": progress.interval_before,
        "rollouts": progress.rollouts,
        "peers": progress.peers,
        "groups_shared": None if progress.peers is None else progress.shared,
        "seconds": {part: None if value is None else round(value, 3) for part, value in seconds.items()},
    }
