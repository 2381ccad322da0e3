"""The loop of a relay: an API generates, this node verifies and keeps. No model is loaded, nothing is trained."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

from hivemind_exp.config import Config
from hivemind_exp.events import Emit, RolloutsEvent, RoundEvent
from hivemind_exp.game.sampling.prompts import STAGE, messages
from hivemind_exp.journal.journal import Journal
from hivemind_exp.rollouts.orders import OffloadEngine
from hivemind_exp.rollouts.types import Group, Kind, Prompt
from hivemind_exp.sources.group_filler import orders_for
from hivemind_exp.sources.schedule import parts, rounds_ahead
from hivemind_exp.stop import StopFlag
from hivemind_exp.tasks.base import Tasks
from hivemind_exp.trainer.progress import NodeProgress
from hivemind_exp.trainer.round_timer import RoundTimer


class RelayLoop:
    """Plays rounds until there are enough, or until it is asked to stop."""

    def __init__(
        self,
        config: Config,
        *,
        offload: OffloadEngine,
        tasks: Tasks,
        journal: Journal,
        emit: Emit,
        stop: StopFlag,
        progress: NodeProgress,
        publish: Callable[[int, Sequence[Group]], None] | None = None,
    ) -> None:
        """Put the parts together. ``publish`` shares a round's groups with a swarm.

        ``progress`` is kept up to date, for whoever asks after an end of any kind.
        """
        self._config = config
        self._offload = offload
        self._tasks = tasks
        self._journal = journal
        self._emit = emit
        self._stop = stop
        self._publish = publish
        self._asked: dict[int, list[Prompt]] = {}
        self.progress = progress

    def run(self) -> None:
        """Go on after the last round whose completions were all verified.

        Raises ``StopRequested`` after a stop, and ``NodeError`` where the node must not go on.
        """
        total = self._config.game.rounds
        self.progress.round = self._journal.verified_rounds()
        while not total or self.progress.round < total:
            self._stop.check()
            self._play_round(self.progress.round)
            self.progress.round += 1

    def _play_round(self, round_: int) -> None:
        clock, total = RoundTimer(), self._config.game.rounds
        for coming in range(round_, round_ + 1 + rounds_ahead(self._config.offload)):
            if coming not in self._asked and (not total or coming < total):
                self._asked[coming] = self._ask(coming)
        prompts = self._asked.pop(round_)
        with clock("generate"):
            self._offload.wait(round_)
            self._offload.report_spend(round_)
        with clock("verify"):
            groups = self._verify(round_, prompts)
        if self._publish is not None:
            with clock("share"):
                self._publish(round_, groups)
        self._emit(RolloutsEvent(round=round_, stage=STAGE, source=Kind.RELAY, **_summary(groups)))
        self._emit(RoundEvent(round=round_, rounds=total, seconds=clock.seconds()))

    def _ask(self, round_: int) -> list[Prompt]:
        questions = self._tasks.questions("train", round_, self._config.game.groups)
        prompts = [Prompt(question, STAGE, messages(question), ()) for question in questions]
        self._journal.write_prompts(round_, prompts)
        plan = parts(self._config.offload, round_, STAGE, self._config.game.group_size)
        self._offload.submit(orders_for(self._journal, round_, prompts, plan.remote_places, version=0))
        return prompts

    def _verify(self, round_: int, prompts: Sequence[Prompt]) -> list[Group]:
        found = [(prompt, self._journal.rollouts(round_, prompt, 0, _as_bytes)) for prompt in prompts]
        groups = [Group(prompt, tuple(rows.values()), places=tuple(rows)) for prompt, rows in found if rows]
        questions = [group.prompt.question for group in groups for _ in group.rollouts]
        scores = iter(self._tasks.score(questions, [row.text for group in groups for row in group.rollouts]))
        verified = [replace(group, scores=tuple(next(scores) for _ in group.rollouts)) for group in groups]
        self._journal.write_scores(round_, verified)
        return verified


def _as_bytes(text: str, _truncated: bool) -> tuple[int, ...]:
    """Stand in for a tokenizer, which a relay has not."""
    return tuple(text.encode()) or (0,)


def _summary(groups: Sequence[Group]) -> dict[str, float | None]:
    """Return what the completions of a round were like; their length in tokens is not known without a tokenizer."""
    scores = [score for group in groups for score in group.scores]
    outcomes = [score.outcome for score in scores]
    return {
        "count": len(scores),
        "correct": sum(score.correct for score in scores),
        "reward": statistics.fmean(outcomes) if outcomes else None,
        "reward_std": statistics.pstdev(outcomes) if outcomes else None,
        "truncated": sum(row.truncated for group in groups for row in group.rollouts),
    }
