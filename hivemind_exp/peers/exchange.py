"""Exchange groups with the swarm: share the node's own after each round, and draw peers' groups for the next step.

The node shares its groups before the step that learns from them, while they are freshest. Peers' groups are written to
the journal before the node learns from them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hivemind_exp.events import Emit, ShareEvent
from hivemind_exp.game_settings import STAGE_NAMES
from hivemind_exp.journal.records import TrainingRow
from hivemind_exp.peers.bundle import (
    FULL,
    LONGEST_NAME,
    LONGEST_TEXT,
    MOST_COMPLETIONS,
    Bundle,
    SharedGroup,
    pack_fitting,
)
from hivemind_exp.peers.sampler import PeerSampler
from hivemind_exp.peers.vetting import PeerRules
from hivemind_exp.rollouts.types import Group, Message
from hivemind_exp.seeds import derive_seed
from hivemind_exp.source_kinds import Kind

if TYPE_CHECKING:
    from hivemind_exp.swarm.node import SwarmNode
import json
import time
from pathlib import Path

from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import peer_completion_index
from hivemind_exp.peers.vetting import MOST_USED, Used
from hivemind_exp.rollouts.types import Prompt, Rollout
from hivemind_exp.tasks.base import Question, Score

QUANTILE = 0.02
"""Quantile of the likelihood of the node's own samples, from which the floor is derived."""
SLACK = 0.05
"""Margin between that quantile and the floor, in nats per token: the same text scores slightly differently in another
batch, and its end is less certain after an answer that is new to this node."""
CERTAIN = 1
"""Tokens of probability 1 that are added to each own sample's mean. If a sample has one token outside its answer, and
a rare one, it says little about the text that the node writes. A few such samples would put the floor below poison."""
SAMPLES = 16
"""Own samples measured per step: one small forward pass without gradient."""
FIRST_SAMPLES = 64
"""Own samples measured when none has been yet: among fewer, the quantile would be the least likely one."""
REMEMBERED = 256
"""The number of latest own samples from which the quantile is computed."""

LogProbabilities = Callable[[Sequence[TrainingRow]], list[list[float]]]
"""Returns log π of each row's completion tokens under the node's current weights."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS drawn (
    swarm TEXT, round INTEGER, stage TEXT, position INTEGER, floor REAL,
    peer TEXT, peer_round INTEGER, place INTEGER, question TEXT,
    PRIMARY KEY (swarm, round, stage, position)
) WITHOUT ROWID;
"""
_NONE = -1
"""Position of the row that marks a draw as done, even if the draw was empty."""


@dataclass(frozen=True, slots=True)
class TrainingStatus:
    """The training progress that a node announces."""

    step: int
    accuracy: float | None
    """On held-out questions, as measured by that node. None before the first evaluation."""


@dataclass(frozen=True, slots=True)
class PeerBatch:
    """What a step learns from peers: verified groups, and the floor for their likelihood (``Manifest.floor``)."""

    groups: tuple[Group, ...] = ()
    floor: float | None = None


@dataclass(eq=False)
class PeerExchange:
    """The node's side of a swarm. Call ``share`` once per round and stage, then ``draw``."""

    wire: SwarmNode
    sampler: PeerSampler
    drawn: PeerDrawLog
    encode: Callable[[Sequence[Message]], tuple[int, ...]]
    """Returns the token ids of a chat, ready for the model's turn."""
    log_probabilities: LogProbabilities
    seed: int
    emit: Emit
    levels: Callable[[int], Mapping[str, int]] = lambda _: {}
    """Returns the level of difficulty at which this node is in a round, by task."""

    def __post_init__(self) -> None:
        self._filter = LikelihoodFilter(self.log_probabilities, self.sampler.texts.answer)
        self._shared: Sequence[Group] = ()
        """The groups shared last. Their own samples calibrate the filter."""

    def share(self, round_: int, stage: str, groups: Sequence[Group], status: TrainingStatus) -> None:
        """Share a round's own verified groups with the swarm, and take in the bundles that arrived."""
        self._shared = groups
        self.sampler.vetting.remember_own(groups)
        logps = self._own_log_probabilities(groups) if self.sampler.rules.with_logps else {}
        size, count = publish(self.sampler.rules, self.wire, round_, stage, groups, status, logps)
        refusals = dict(self.sampler.refusals)
        self.sampler.refusals.clear()
        self.emit(ShareEvent(round=round_, groups=count, bytes=size, unused=refusals))
        self.sampler.take_in(self.wire.take())

    def draw(self, round_: int, stage: str) -> PeerBatch:
        """Return what the step of a round and stage may learn from peers."""
        known = self.drawn.read(round_, stage)
        if known is not None:  # the node was killed after the draw and before its step
            drawn, floor = known
            whole = [
                replace(each, prompt=replace(each.prompt, ids=self.encode(each.prompt.messages))) for each in drawn
            ]
            return PeerBatch(tuple(whole), floor)
        drawn = self.sampler.draw(seed=derive_seed(self.seed, "peers", round_), levels=self.levels(round_))
        floor = self._filter.measure(self._shared) if drawn else None
        self.drawn.write(round_, stage, drawn, floor)
        return PeerBatch(tuple(drawn), floor)

    def outputs(self, round: int, stage: str) -> dict[str, dict[str, list[str]]]:
        """Return what peers have shared so far for a round and stage: by peer and question, a whole group's texts."""
        self.sampler.take_in(self.wire.take())
        found: dict[str, dict[str, list[str]]] = {}
        for bundle in self.sampler.pool.bundles(round, stage):
            found.setdefault(bundle.peer, {}).update({group.question: list(group.texts) for group in bundle.groups})
        return found

    def _own_log_probabilities(self, groups: Sequence[Group]) -> dict[int, list[list[float]]]:
        """Return the log-probabilities of the groups that this node sampled entirely itself, by number."""
        own = {n: group for n, group in enumerate(groups) if all(row.kind is Kind.POLICY for row in group.rollouts)}
        rows = [row_of(group, place) for group in own.values() for place in range(len(group.rollouts))]
        found = iter(self.log_probabilities(rows))
        return {n: [next(found) for _ in group.rollouts] for n, group in own.items()}


def publish(  # noqa: PLR0917 - sender, receiver and content
    rules: PeerRules,
    wire: SwarmNode,
    round_: int,
    stage: str,
    groups: Sequence[Group],
    status: TrainingStatus,
    logps: dict[int, list[list[float]]] | None = None,
) -> tuple[int, int]:
    """Share those of the verified ``groups`` that are whole. Return the number of bytes and of groups shared."""
    shared = {
        group.prompt.question.digest: _shared(rules, group, (logps or {}).get(number))
        for number, group in enumerate(groups)
        if _is_shareable(group, rules)
    }
    data, count = pack_fitting(Bundle(rules.swarm, rules.me, round_, stage, tuple(shared.values())))
    if not count:
        return 0, 0
    progress = None if status.accuracy is None else round(1000 * status.accuracy)
    number = STAGE_NAMES.index(stage)
    wire.publish(data, round=round_, stage=number, groups=count, step=status.step, progress=progress)
    return len(data), count


def _is_shareable(group: Group, rules: PeerRules) -> bool:
    """Return whether a group is whole and small enough for readers to accept, who do not know hinted completions."""
    if any(row.kind is Kind.HINTED for row in group.rollouts):
        return False
    longest = max((len(row.text.encode("utf-8", "replace")) for row in group.rollouts), default=0)
    return len(group.rollouts) == rules.group_size <= MOST_COMPLETIONS and longest <= LONGEST_TEXT


def _shared(rules: PeerRules, group: Group, logps: list[list[float]] | None) -> SharedGroup:
    question = group.prompt.question
    if logps is not None and not all(math.isfinite(value) for row in logps for value in row):
        logps = None
    # A mixed group is labeled by its external part, so that readers do not take all of it for the node's own.
    first = next((row for row in group.rollouts if not row.kind.own), group.rollouts[0])
    label = rules.model if first.kind.own else first.model or first.source
    return SharedGroup(
        task=question.task,
        index=question.index,
        question=question.digest,
        kind=first.kind,
        label=label.encode("utf-8", "replace")[:LONGEST_NAME].decode("utf-8", "ignore"),
        outcomes=tuple(round(FULL * score.outcome) for score in group.scores),
        cut=tuple(row.truncated for row in group.rollouts),
        texts=tuple(row.text for row in group.rollouts),
        ids=() if logps is None else tuple(row.ids for row in group.rollouts),
        logps=() if logps is None else tuple(map(tuple, logps)),
        level=question.level,
    )


class LikelihoodFilter:
    """Tracks how likely the node's own samples are outside their answers, and derives the floor for peers' text.

    A verified answer needs no filter, and counting it would refuse what this node does not know yet.
    """

    def __init__(self, log_probabilities: LogProbabilities, answer: Callable[[Sequence[int], str], range]) -> None:
        """``answer``: returns which tokens of a completion contain its answer, from its token ids and text."""
        self._log_probabilities, self._answer = log_probabilities, answer
        self._means: deque[float] = deque(maxlen=REMEMBERED)

    def measure(self, groups: Sequence[Group]) -> float | None:
        """Measure a step's own samples and return the floor, or None while no own sample has been measured."""
        own = [(group, place) for group in groups for place, row in enumerate(group.rollouts) if row.kind.own]
        wanted = SAMPLES if self._means else FIRST_SAMPLES
        picked = own[:: max(1, math.ceil(len(own) / wanted))]
        rows = [row_of(group, place) for group, place in picked]
        for row, logps in zip(rows, self._log_probabilities(rows), strict=True):
            answer = self._answer(row.completion_ids, row.text)
            outside = [value for place, value in enumerate(logps) if place not in answer]
            if outside:
                self._means.append(sum(outside) / (len(outside) + CERTAIN))
        found = quantile(self._means, QUANTILE)
        return None if found is None else found - SLACK


def quantile(values: Sequence[float], part: float) -> float | None:
    """Return the quantile ``part`` (0 to 1) of the values, interpolated linearly. None without values."""
    if not values:
        return None
    ordered = sorted(values)
    below, between = divmod(part * (len(ordered) - 1), 1.0)
    low = ordered[int(below)]
    return low + between * (ordered[min(int(below) + 1, len(ordered) - 1)] - low)


def row_of(group: Group, place: int) -> TrainingRow:
    """Return one completion of a group as a row with advantage 0."""
    rollout = group.rollouts[place]
    return TrainingRow(
        kind=rollout.kind,
        source=rollout.source,
        task=group.prompt.question.task,
        group=0,
        prompt_ids=group.prompt.ids,
        completion_ids=rollout.ids,
        text=rollout.text,
        outcome=0.0,
        advantage=0.0,
        lag=rollout.lag,
    )


class PeerDrawLog(Journal):
    """The groups drawn from peers for each round and stage. Opens its own connection to the journal's file.

    They are stored among the other completions, in slots that the node's own groups never use.
    """

    def __init__(self, path: Path, swarm: str) -> None:
        super().__init__(path, swarm, durable=False)
        self._db.executescript(_SCHEMA)

    def write(self, round_: int, stage: str, groups: Sequence[Group], floor: float | None) -> None:
        """Record a draw with its rewards and the manifest's floor, atomically."""
        where, now = (self._swarm, round_, stage), time.time()
        numbered = [(peer_completion_index(number), group) for number, group in enumerate(groups)]
        self._write_all(
            (
                "INSERT INTO drawn VALUES (?,?,?,?,?,?,?,?,?)",
                [
                    (*where, _NONE, floor, None, None, None, None),
                    *(
                        (*where, n, None, group.rollouts[0].source, asked.round, asked.index, asked.digest)
                        for n, group, asked in ((n, group, group.prompt.question) for n, group in enumerate(groups))
                    ),
                ],
            ),
            (
                "INSERT INTO prompts VALUES (?,?,?,?,?,?,?)",
                [
                    (*where, first, prompt.question.task, prompt.question.digest, json.dumps(prompt.messages))
                    for first, prompt in ((first, group.prompt) for first, group in numbered)
                ],
            ),
            (
                "INSERT INTO completions (swarm, round, stage, question, idx, kind, source, model, version, text, ids, "
                "truncated, logps, outcome, strict, why, usd, t) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                [
                    (
                        *(*where, group.prompt.question.digest, first + place),
                        *(rollout.kind, rollout.source, rollout.model, None, rollout.text, json.dumps(rollout.ids)),
                        *(rollout.truncated, json.dumps(rollout.behaviour_logps)),
                        *(score.outcome, score.strict, score.why, 0.0, now),
                    )
                    for first, group in numbered
                    for place, (rollout, score) in enumerate(zip(group.rollouts, group.scores, strict=True))
                ],
            ),
        )

    def read(self, round_: int, stage: str) -> tuple[list[Group], float | None] | None:
        """Return the drawn groups (their prompts lack token ids) and the floor, or None before the draw."""
        where = (self._swarm, round_, stage)
        rows = self._db.execute(
            "SELECT floor, position, question, peer_round, place FROM drawn "
            "WHERE swarm=? AND round=? AND stage=? ORDER BY position",
            where,
        ).fetchall()
        if not rows:
            return None
        (floor, *_), *drawn = rows
        return [self._read_group(where, *row[1:]) for row in drawn], floor

    def used(self) -> list[Used]:
        """Return the groups drawn so far, latest last."""
        rows = self._db.execute(
            "SELECT peer, peer_round, question FROM drawn WHERE swarm=? AND position<>? ORDER BY round DESC LIMIT ?",
            (self._swarm, _NONE, MOST_USED),
        )
        return [(peer, round_, question) for peer, round_, question in rows][::-1]

    def _read_group(
        self, where: tuple[str, int, str], number: int, question: str, peer_round: int, place: int
    ) -> Group:
        first = peer_completion_index(number)
        task, text = self._db.execute(
            "SELECT task, messages FROM prompts WHERE swarm=? AND round=? AND stage=? AND position=?", (*where, first)
        ).fetchone()
        chat: tuple[Message, ...] = tuple(json.loads(text))
        rows = self._db.execute(
            "SELECT source, model, text, ids, truncated, logps, outcome, strict, why FROM completions "
            "WHERE swarm=? AND round=? AND stage=? AND question=? AND idx>=? AND idx<? ORDER BY idx",
            (*where, question, first, peer_completion_index(number + 1)),
        ).fetchall()
        asked = Question(task, "train", peer_round, place, chat[-1]["content"], {}, question, "")
        rollouts = tuple(
            Rollout(
                kind=Kind.PEER,
                source=source,
                text=said,
                ids=tuple(json.loads(ids)),
                truncated=bool(cut),
                lag=None,
                model=model,
                behaviour_logps=None if logps == "null" else tuple(json.loads(logps)),
            )
            for source, model, said, ids, cut, logps, *_ in rows
        )
        scores = tuple(Score(outcome, bool(strict), why) for *_, outcome, strict, why in rows)
        return Group(Prompt(asked, where[2], chat, ()), rollouts, scores=scores)
