"""What a node's events say about its rounds, steps and time. Reads only what was appended since the last look."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from hivemind_exp.foreign_text import visible
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.run_record import PASSING
from swarmctl.report.series import Mean, Series
from swarmctl.storage.followed_file import FollowedFile
from swarmctl.storage.json_file import rfc3339
from swarmctl.terminal.progress import PARTS
from swarmctl.terminal.safe_text import masked

_AT_ONCE = 1 << 22
"""Bytes of the log in memory at once."""
_LONGEST = 1 << 20
"""A longer line is no event of a node."""
_MOST_PROBLEMS = 12
_LONGEST_MESSAGE, _LONGEST_NAME = 1_000, 60
"""Characters that are kept of a problem, and of a reward term's name."""
_FIRST_PHASE = "loading PyTorch"
"""The first phase of every run of a trainer."""
SETUP, EVALUATE, SAVE = "start", "evaluate", "checkpoint"
ROLLOUTS = (
    *("count", "correct", "truncated", "tokens"),
    *("reward", "reward_std", "points", "completion_length", "lag"),
)
STEPS = (
    *("source_grad_norm", "share", "entropy", "nll", "reverse_kl", "kl", "clip_fraction"),
    *("loss", "grad_norm", "learning_rate"),
)
ROUNDS = (*PARTS, "tokens_per_second", "groups", "different")
TERM = "term "
"""Begins the name of a reward term's series."""
_MEASURED = ("source_grad_norm", "entropy", "nll", "reverse_kl", "kl", "clip_fraction")
_OF_STEP = ("loss", "grad_norm", "learning_rate")


class Timeline:
    """The events of a node so far."""

    def __init__(self, files: NodeFiles) -> None:
        self._file = FollowedFile(files.events, whole=True)
        self._rest = b""
        self.rollouts = Series("stage", "source")
        self.steps = Series("source")
        self.rounds = Series()
        self.terms: dict[tuple[str, str], Mean] = {}
        """The mean of each reward term, by source and term."""
        self.seconds: dict[str, float] = {}
        """Seconds by part over all runs in the log: the parts of rounds, starts, evaluations and checkpoints."""
        self.trained: dict[int, float] = {}
        """For each evaluation by the rounds finished before it: the seconds that rounds had taken so far in the log."""
        self.rounds_timed = 0
        """Rounds in ``seconds``."""
        self.first_round: int | None = None
        """The first round in the log, counted from 1; the log may have been rotated."""
        self.start: dict[str, Any] | None = None
        """The latest ``start``."""
        self.peers: list[tuple[float, int]] = []
        """How many peers were active, and since when (Unix seconds)."""
        self.problems: dict[tuple[str, str], dict[str, Any]] = {}
        """Warnings and errors by code and message, with how often and when they came last."""
        self._step: list[dict[str, Any]] = []
        self._last_step = -1
        self._opened: float | None = None
        self._evaluating: float | None = None

    def read(self) -> None:
        """Take in what was appended to the log."""
        while data := self._file.read(_AT_ONCE):
            *lines, self._rest = (self._rest + data).split(b"\n")
            if len(self._rest) > _LONGEST:
                self._rest = b""
            for event in _events(lines):
                take: Callable[[dict[str, Any]], None] | None = getattr(self, f"_on_{event['event']}", None)
                if take is not None:
                    try:
                        take(event)
                    except (KeyError, TypeError, ValueError, AttributeError):
                        continue  # damaged, or of another version

    def series(self) -> dict[str, list[dict[str, Any]]]:
        """Return the rows of each series."""
        self._end_step()
        terms = self.rollouts.names(TERM)
        rollouts = self.rollouts.rows(*ROLLOUTS, *terms)
        for row in rollouts:
            found = {name.removeprefix(TERM): row.pop(name) for name in terms}
            row["terms"] = {name: value for name, value in found.items() if value is not None} or None
        return {"rollouts": rollouts, "steps": self.steps.rows(*STEPS), "rounds": self.rounds.rows(*ROUNDS)}

    def _on_phase(self, event: dict[str, Any]) -> None:
        if event.get("name") == _FIRST_PHASE or self._opened is None:
            self._opened, self._evaluating = event["t"], None
        if event.get("name") == "evaluating" and self._evaluating is None:
            self._evaluating = event["t"]

    def _on_start(self, event: dict[str, Any]) -> None:
        self.start = event
        if self._opened is not None:
            self._spend(SETUP, event["t"] - self._opened)

    def _on_eval(self, event: dict[str, Any]) -> None:
        self.trained[int(event["round"])] = sum(self.seconds.get(part, 0.0) for part in PARTS)
        if self._evaluating is not None:
            self._spend(EVALUATE, event["t"] - self._evaluating)
        self._evaluating = None

    def _on_checkpoint(self, event: dict[str, Any]) -> None:
        self._spend(SAVE, float(event["seconds"]))

    def _on_stop(self, _: dict[str, Any]) -> None:
        self._opened = self._evaluating = None

    def _on_round(self, event: dict[str, Any]) -> None:
        round_, spent = int(event["round"]), dict(event.get("seconds") or {})
        if self.first_round is None:
            self.first_round = round_ + 1
        self.rounds_timed += 1
        for part in PARTS:
            self._spend(part, float(spent.get(part) or 0.0))
        means = {part: spent.get(part) for part in PARTS}
        means |= {name: event.get(name) for name in ("tokens_per_second", "groups", "different")}
        self.rounds.add(round_, means=means)

    def _on_rollouts(self, event: dict[str, Any]) -> None:
        count = int(event["count"])
        means = {name: event.get(name) for name in ("reward", "reward_std", "points", "completion_length", "lag")}
        for term, value in (event.get("terms") or {}).items():
            name = visible(str(term))[:_LONGEST_NAME]
            means[f"{TERM}{name}"] = value
            self.terms.setdefault((str(event["source"]), name), Mean()).add(float(value), count)
        sums = {name: event.get(name) for name in ("count", "correct", "truncated", "tokens")}
        label = (str(event.get("stage", "answer")), str(event["source"]))
        self.rollouts.add(int(event["round"]), label, means=means, weight=count, sums=sums)

    def _on_step(self, event: dict[str, Any]) -> None:
        if self._step and self._step[0]["step"] != event["step"]:
            self._end_step()
        # A repeated step was counted before the crash.
        known = event["step"] <= self._last_step or any(each["source"] == event["source"] for each in self._step)
        if not event.get("replayed") or not known:
            self._step.append(event)

    def _end_step(self) -> None:
        """Add the latest step, when all its sources are known."""
        events, self._step = self._step, []
        total = sum(event.get("source_grad_norm") or 0.0 for event in events)
        for event in events:
            self._last_step = max(self._last_step, event["step"])
            norm = event.get("source_grad_norm")
            means = {name: event.get(name) for name in (*_MEASURED, *_OF_STEP)}
            means["share"] = norm / total if norm is not None and total else None
            self.steps.add(int(event["round"]), (str(event["source"]),), means=means)

    def _on_peers(self, event: dict[str, Any]) -> None:
        self.peers.append((float(event["t"]), int(event["peers"])))
        if len(self.peers) > 2_000:
            self.peers = self.peers[::2]

    def _on_warning(self, event: dict[str, Any]) -> None:
        self._problem(event)

    def _on_error(self, event: dict[str, Any]) -> None:
        self._problem(event)

    def _problem(self, event: dict[str, Any]) -> None:
        """Keep a warning or an error. What differs only in its numbers counts as the same."""
        message = visible(masked(str(event.get("message"))[:_LONGEST_MESSAGE]))
        key = (str(event.get("code")), "".join("0" if sign.isdigit() else sign for sign in message))
        before = self.problems.pop(key, None)  # moved to the end
        serious = event["event"] == "error" and event.get("code") not in PASSING
        self.problems[key] = {
            "level": "error" if serious else "warning",
            "code": key[0],
            "message": message,
            "times": 1 + (before["times"] if before else 0),
            "last": rfc3339(event["t"]),
        }
        while len(self.problems) > _MOST_PROBLEMS:
            del self.problems[next(iter(self.problems))]

    def _spend(self, part: str, seconds: float) -> None:
        if seconds > 0:
            self.seconds[part] = self.seconds.get(part, 0.0) + seconds


def _events(lines: list[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue  # cut short by a crash or a full disk
        if isinstance(event, dict) and isinstance(event.get("event"), str) and isinstance(event.get("t"), int | float):
            yield event
