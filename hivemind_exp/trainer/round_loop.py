"""The part of the loop that all nodes share: request completions for a stage's prompts, early if possible, and verify.

Also contains the node's position in the game, the statistics of a round, and the relay's loop, which does nothing more.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.events import Emit, RolloutsEvent, RoundEvent, WarningEvent
from hivemind_exp.game.base import Game, Schedule
from hivemind_exp.game.prompt_style import TAGS_STYLE, PromptStyle
from hivemind_exp.game.sampling.game import STAGE as ANSWER
from hivemind_exp.journal.journal import Encode, Journal
from hivemind_exp.journal.records import StageRun
from hivemind_exp.rollouts.types import Group, Prompt, Rollout
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.group_filler import GroupFiller
from hivemind_exp.sources.source import Source
from hivemind_exp.stop import StopFlag
from hivemind_exp.tasks.base import Score, Tasks
from hivemind_exp.trainer.judge import Judge
from hivemind_exp.trainer.refill import has_own, teaches


@dataclass(slots=True)
class NodeProgress:
    """A node's progress."""

    round: int = 0
    """Rounds finished."""
    step: int = 0
    """Optimizer steps taken."""
    checkpoint: Path | None = None
    """The newest checkpoint."""


class RoundCursor:
    """Keeps ``progress`` in sync with the stages played, across stops and crashes."""

    def __init__(self, schedule: Schedule, progress: NodeProgress) -> None:
        self._schedule = schedule
        self._last: StageRun | None = None
        """The stage played last in the current round. None between rounds."""
        self.progress = progress

    def resume(self, last: tuple[StageRun, int] | None) -> None:
        """Resume after the last step in a checkpoint. ``last``: its stage, and the rounds finished before it.

        Its round continues unless the checkpoint already counts it as finished.
        """
        if last is not None and last[1] == self.progress.round and last[0].stage != WARM_START:
            self._last = last[0]

    def next(self) -> StageRun:
        """Return the stage to play now."""
        return self._schedule.next(self._last, self.progress.round)

    def deadline(self) -> float | None:
        """Return the deadline of the current stage (``time.monotonic``). None: no time limit."""
        left = self._schedule.left()
        return None if left is None else time.monotonic() + left

    def advance(self, stage_run: StageRun, finished: int) -> None:
        """Count a stage's step. ``finished``: the rounds that the node had finished before it."""
        self._last = stage_run if stage_run.stage != WARM_START else None
        self.progress.round, self.progress.step = finished, self.progress.step + 1

    def next_stage(self) -> StageRun | None:
        """Return the current round's next stage, or None if the round is over. It then counts as finished."""
        stage_run = self.next()
        if self._last is None or stage_run.round == self._last.round:
            return stage_run
        self._last = None
        self.progress.round += 1
        return None


WARM_START = "warm-start"
"""The stage of the steps before the first round, which belong to no game."""
Part = Literal["generate", "verify", "train", "share"]
PARTS: tuple[Part, ...] = ("generate", "verify", "train", "share")


class RoundTimer:
    """Measures wall time in seconds by part. The rest is "other"."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._tokens = 0
        self._generated_here = True
        self.groups: int | None = None
        """Groups of answers with completions from the node's own weights. None: not counted."""
        self.different: int | None = None
        """Those of them that teach something."""

    @contextmanager
    def __call__(self, part: Part) -> Iterator[None]:
        """Count the time inside the block as ``part``."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part] += time.perf_counter() - begun

    def seconds(self) -> dict[str, float]:
        """Return the seconds so far for each part and for "other"."""
        other = time.perf_counter() - self._start - sum(self._seconds.values())
        return {name: round(value, 4) for name, value in {**self._seconds, "other": other}.items()}

    def count_tokens(self, summaries: Mapping[Kind, Mapping[str, float | None]], *, here: Kind | None) -> None:
        """Count a stage's generated tokens, without peers' groups.

        ``here``: the kind generated on this machine. None: completions of that kind also come from elsewhere.
        """
        own = {kind: summary for kind, summary in summaries.items() if kind is not Kind.PEER}
        self._tokens += sum(int(summary["tokens"] or 0) for summary in own.values())
        self._generated_here = self._generated_here and all(kind is here for kind in own)

    def count_groups(self, groups: Sequence[Group]) -> None:
        """Count the answer stage's groups, and those that teach something."""
        own = [group for group in groups if has_own(group)]
        self.groups = (self.groups or 0) + len(own)
        self.different = (self.different or 0) + sum(map(teaches, own))

    def tokens_per_second(self) -> float | None:
        """Return tokens generated per second. None if an API generated some of them, possibly long before."""
        seconds = self.seconds()["generate"]
        return self._tokens / seconds if self._generated_here and seconds > 0 else None


def summarise(groups: Sequence[Group]) -> dict[Kind, dict[str, float | None]]:
    """Return statistics of a stage's completions, for each kind of source."""
    rows = [pair for group in groups for pair in group.scored()]
    kinds = dict.fromkeys(rollout.kind for rollout, _ in rows)
    return {kind: summarise_rows([pair for pair in rows if pair[0].kind is kind]) for kind in kinds}


def summarise_rows(rows: Sequence[tuple[Rollout, Score]]) -> dict[str, float | None]:
    """Return statistics of verified completions.

    ``reward`` and ``reward_std`` are the mean and standard deviation of the outcome over all completions. ``points`` is
    the mean of the summed terms, None if there are no terms. ``completion_length`` is the mean in tokens. ``lag`` is
    the mean number of optimizer steps between the request and learning, None if unknown. Without completions, means
    are None.
    """
    outcomes = [score.outcome for _, score in rows]
    lags = [rollout.lag for rollout, _ in rows if rollout.lag is not None]
    lengths = [rollout.sampled for rollout, _ in rows]
    return {
        "count": len(rows),
        "correct": sum(score.correct for _, score in rows),
        "reward": _mean(outcomes),
        "reward_std": statistics.pstdev(outcomes) if outcomes else None,
        "points": _mean([score.reward for _, score in rows]) if any(score.terms for _, score in rows) else None,
        "completion_length": _mean(lengths),
        "truncated": sum(rollout.truncated for rollout, _ in rows),
        "tokens": sum(lengths),
        "lag": _mean(lags),
    }


def _count_own(groups: Sequence[Group]) -> int:
    return sum(rollout.kind.own for group in groups for rollout in group.rollouts)


def term_means(groups: Sequence[Group]) -> dict[Kind, dict[str, float]]:
    """Return the mean of each reward term over all completions, for each kind of source with terms.

    A completion without a term, such as one without an answer, counts as 0.
    """
    found: dict[Kind, dict[str, float]] = {}
    rows = [pair for group in groups for pair in group.scored()]
    count = Counter(rollout.kind for rollout, _ in rows)
    for kind, term in ((rollout.kind, term) for rollout, score in rows for term in score.terms):
        means = found.setdefault(kind, {})
        means[term.name] = means.get(term.name, 0.0) + term.value / count[kind]
    return found


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


@dataclass(kw_only=True)
class RoundLoop:
    """Plays rounds until the last one, or until a stop is requested.

    ``HivemindGRPOTrainer`` and ``RelayLoop`` define what happens with verified groups.
    """

    config: Config
    sources: Mapping[str, Source]
    """By name in the registry."""
    encode: Encode
    """Returns the token ids of a completion that arrives as text."""
    tasks: Tasks
    game: Game
    schedule: Schedule
    journal: Journal
    emit: Emit
    stop: StopFlag
    progress: NodeProgress
    """Kept up to date, so that it is valid however the run ends."""
    style: PromptStyle = TAGS_STYLE
    """The node's way of asking."""
    judge: Judge | None = None
    """Grades the node's own completions."""

    def __post_init__(self) -> None:
        self._cursor = RoundCursor(self.schedule, self.progress)
        self._asked: dict[StageRun, list[Prompt]] = {}
        self._unjudged = 0
        """The current stage's own completions that could not be verified."""
        self._filler = GroupFiller(
            self.config,
            self.sources,
            self.journal,
            encode=self.encode,
            verify=self.game.score,
            emit=self.emit,
            style=self.style,
        )

    def _finished(self) -> bool:
        return 0 < self.config.game.rounds <= self.progress.round

    def _complete(self, stage_run: StageRun, timer: RoundTimer) -> list[Group]:
        """Return a stage's verified groups, with scores in the journal. Empty if none was completed in time."""
        self._look_ahead(stage_run)
        self._unjudged = 0
        deadline = self._cursor.deadline()
        with timer("generate"):
            groups = self._filler.fill(stage_run, self._asked.pop(stage_run), deadline)
        return self._verify(stage_run, groups, timer)

    def _verify(self, stage_run: StageRun, groups: Sequence[Group], timer: RoundTimer) -> list[Group]:
        with timer("verify"):
            verified = self.game.score(groups) if groups else []
            if self.judge is not None:
                verified = self.judge.grade(verified)
            verified = self._rewards(verified) if verified else []
            self.journal.write_scores(stage_run.round, verified)
        self._unjudged += _count_own(groups) - _count_own(verified)
        return verified

    def _rewards(self, groups: list[Group]) -> list[Group]:
        """Return verified groups with the rewards that the node trains on."""
        return groups

    def _look_ahead(self, stage_run: StageRun) -> None:
        """Request completions for this stage, and for coming rounds that an API can start early."""
        self._asked = {known: prompts for known, prompts in self._asked.items() if known.round >= stage_run.round}
        ahead = self._filler.ahead
        if self._cursor.deadline() is not None:
            ahead = min(ahead, 1)  # completions requested for a missed round are paid for in vain
        if self.config.game.rounds:
            ahead = min(ahead, self.config.game.rounds - self.progress.round - 1)
        for coming in (stage_run, *(StageRun(stage_run.round + n, self.game.stages[0]) for n in range(1, ahead + 1))):
            if coming not in self._asked:
                self._asked[coming] = self._questions(coming)
                self._filler.request(coming, self._asked[coming])

    def _questions(self, stage_run: StageRun) -> list[Prompt]:
        """Return a stage's prompts, after writing them to the journal."""
        first, count = stage_run.chunk * self.config.game.groups, self.config.game.groups
        questions = self.tasks.questions("train", stage_run.round, first + count)[first:]
        prompts = self._fitting(self.game.prompts(stage_run, questions))
        self.journal.write_prompts(stage_run.round, prompts, first)
        return prompts

    def _fitting(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Skip prompts over the limit. If they were cut, they would lose the question or the instructions."""
        limit = self.config.generation.max_prompt_tokens
        fitting = [prompt for prompt in prompts if len(prompt.ids) <= limit]
        # Later, a round of long texts must not end a node that has run well with this limit.
        if prompts and not fitting and (prompts[0].stage == ANSWER or self.progress.round == 0):
            shortest = min(len(prompt.ids) for prompt in prompts)
            what = "question" if prompts[0].stage == ANSWER else f"prompt of the {prompts[0].stage} stage"
            raise ConfigurationError(
                f"every {what} is longer than generation.max_prompt_tokens = {limit} (shortest: {shortest} tokens)",
                next=f"swarmctl run --set generation.max_prompt_tokens={2 * shortest}",
            )
        if len(fitting) < len(prompts):
            stage = "" if prompts[0].stage == ANSWER else f" in the {prompts[0].stage} stage"
            message = (
                f"skipped {len(prompts) - len(fitting)} of {len(prompts)} questions{stage}: "
                f"prompts longer than generation.max_prompt_tokens = {limit}"
            )
            self.emit(WarningEvent(code="long_prompts", message=message))
        return fitting

    def _emit_round(self, round_: int, timer: RoundTimer, rate: float | None) -> None:
        rounds = self.config.game.rounds
        counts = {"groups": timer.groups, "different": timer.different}
        self.emit(RoundEvent(round=round_, rounds=rounds, seconds=timer.seconds(), tokens_per_second=rate, **counts))


@dataclass(kw_only=True)
class RelayLoop(RoundLoop):
    """Plays rounds of ``sampling``: verifies, shares and stores the groups."""

    publish: Callable[[int, Sequence[Group]], None] | None = None
    """Shares a round's groups with the swarm."""

    def run(self) -> None:
        """Resume after the last round whose completions were all verified.

        Raises ``StopRequested`` after a stop, and ``NodeError`` if the node must not continue.
        """
        self.progress.round = self.journal.verified_rounds()
        while not self._finished():
            self.stop.check()
            timer, stage_run = RoundTimer(), self._cursor.next()
            groups = self._complete(stage_run, timer)
            self._filler.check_usefulness(stage_run, groups, ())
            if self.publish is not None:
                with timer("share"):
                    self.publish(stage_run.round, groups)
            summary = summarise_rows([pair for group in groups for pair in group.scored()])
            # Unknown without a tokenizer and weights.
            summary |= {"completion_length": None, "tokens": None, "lag": None}
            where = {"round": stage_run.round, "stage": stage_run.stage, "source": Kind.RELAY}
            self.emit(RolloutsEvent(**where, **summary, terms=term_means(groups).get(Kind.RELAY)))
            self._emit_round(stage_run.round, timer, None)
            self.progress.round += 1
            keep = self.config.journal.keep_rounds
            if keep and self.progress.round % self.config.checkpoint.every == 0:
                self.journal.prune(self.progress.round - keep)


def encode_as_bytes(text: str, _truncated: bool) -> tuple[int, ...]:
    """Encode text as bytes: a relay has no tokenizer."""
    return tuple(text.encode()) or (0,)
