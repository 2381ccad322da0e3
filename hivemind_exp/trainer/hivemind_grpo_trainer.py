"""The node's loop: questions, rollouts, rewards, one step, again; and what of it survives a crash."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from hivemind_exp.config import Config
from hivemind_exp.errors import CheckpointError, ConfigurationError, LimitReached, NodeError
from hivemind_exp.events import (
    CheckpointEvent,
    Emit,
    EvalEvent,
    PhaseEvent,
    RolloutsEvent,
    RoundEvent,
    StepEvent,
    WarningEvent,
)
from hivemind_exp.game.base import Game, Schedule
from hivemind_exp.game.sampling.prompts import STAGE as ANSWER
from hivemind_exp.hub.card import base_name, model_card
from hivemind_exp.hub.pusher import HubPusher
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Evaluation, Manifest, StageRun
from hivemind_exp.peers.exchange import PeerBatch, PeerExchange, TrainingStatus
from hivemind_exp.rollouts.orders import OffloadEngine
from hivemind_exp.rollouts.types import Group, Prompt, Source
from hivemind_exp.seeds import derive_seed
from hivemind_exp.sources.group_filler import GroupFiller
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.stop import StopFlag, StopRequested
from hivemind_exp.tasks.base import Tasks
from hivemind_exp.trainer.advantages import build_rows
from hivemind_exp.trainer.checkpoint_state import MODEL, save_state
from hivemind_exp.trainer.checkpoints import Checkpoint, CheckpointStore
from hivemind_exp.trainer.evaluation import evaluate, pass_rates
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer, StepAbandoned, StepResult
from hivemind_exp.trainer.metrics import GeneratedTokens, flatten, summarise
from hivemind_exp.trainer.progress import NodeProgress, RoundCursor
from hivemind_exp.trainer.round_timer import RoundTimer

MOST_LEFT_OUT = 16
"""Steps in a row without a finite gradient, after which a node gives up. float16's scaler finds its scale in fewer."""
PARTING_SECONDS = 3.0
"""A checkpoint that takes longer than this is not written on the way out: the journal carries the steps since."""
STATE_BYTES = 12
"""Bytes of a checkpoint for each weight: itself and AdamW's two moments."""
DISK_BYTES_PER_SECOND = 5e8
"""Speed of a disk that has not been seen writing yet."""
IDLE_SECONDS = 0.5
"""Pause of a node that plays by a clock and has nothing to play: its sources brought nothing."""


class HivemindGRPOTrainer:
    """Plays rounds until there are enough, or until it is asked to stop."""

    def __init__(
        self,
        config: Config,
        *,
        step_trainer: SourceGRPOTrainer,
        tokenizer: PreTrainedTokenizerBase,
        source: Source,
        evaluator: LocalSource,
        offload: OffloadEngine | None,
        tasks: Tasks,
        game: Game,
        schedule: Schedule,
        journal: Journal,
        checkpoints: CheckpointStore,
        emit: Emit,
        stop: StopFlag,
        progress: NodeProgress,
        pusher: HubPusher | None = None,
        exchange: PeerExchange | None = None,
    ) -> None:
        """Put the parts together. ``progress`` is kept up to date, for whoever asks after an end of any kind."""
        self._config = config
        self._step_trainer = step_trainer
        self._tokenizer = tokenizer
        self._source = source
        self._evaluator = evaluator
        self._tasks = tasks
        self._game = game
        self._cursor = RoundCursor(schedule, progress)
        self._journal = journal
        self._checkpoints = checkpoints
        self._emit = emit
        self._stop = stop
        self._asked: dict[StageRun, list[Prompt]] = {}
        self._filler = GroupFiller(
            config,
            journal=journal,
            local=source,
            offload=offload,
            tokenizer=tokenizer,
            verify=game.score,
            emit=emit,
        )
        self._pusher = pusher
        self._left_out = 0
        self._exchange = exchange
        self._saved_in = step_trainer.policy.num_parameters() * STATE_BYTES / DISK_BYTES_PER_SECOND
        self.progress = progress

    def run(self, checkpoint: Checkpoint | None) -> None:
        """Go on from ``checkpoint`` (whose model the stepper already has) to the last round.

        Raises ``StopRequested`` after a stop, with everything saved that a restart needs.
        """
        try:
            self._resume(checkpoint)
            if not self._finished():
                self._look_ahead(self._cursor.next())
            self._evaluate_if_due()
            while not self._finished():
                self._stop.check()
                self._play_round()
                self._evaluate_if_due()
                if self.progress.round % self._config.checkpoint.every == 0 or self._finished() or self._push_due():
                    self.save()
                self._push_if_due()
            self._push_if_due()  # also what an earlier run of a finished node was not asked to push
            if self._pusher is not None:
                self._pusher.finish(self._stop)
        except (StopRequested, LimitReached):
            if self._saved_in < PARTING_SECONDS:
                self.save()
            raise

    def save(self) -> None:
        """Write a checkpoint and forget the steps that all kept ones contain. Raises ``DiskFull``."""
        begun = time.perf_counter()

        def write(directory: Path) -> None:
            save_state(self._step_trainer, self._tokenizer, directory)

        saved = self._checkpoints.save(self.progress.step, self.progress.round, write)
        self._journal.forget_manifests(self._checkpoints.oldest_step())
        self._saved_in = time.perf_counter() - begun
        self.progress.checkpoint = saved.path
        self._emit(CheckpointEvent(round=saved.round, path=str(saved.path), seconds=round(self._saved_in, 3)))

    def _finished(self) -> bool:
        return 0 < self._config.game.rounds <= self.progress.round

    def _resume(self, checkpoint: Checkpoint | None) -> None:
        """Repeat the steps that the journal holds beyond the checkpoint: same rows, same order, same weights."""
        if checkpoint is not None:
            self.progress.round, self.progress.step = checkpoint.round, checkpoint.step
            self.progress.checkpoint = checkpoint.path
            self._cursor.resume(self._journal.stage_run(checkpoint.step - 1))
        saved = self.progress.step
        for manifest in self._journal.manifests(saved):
            stage_run, finished = self._journal.stage_run(manifest.step) or (
                StageRun(manifest.round, ANSWER),
                manifest.round,
            )
            self._take(manifest, stage_run, finished, replayed=True)
        self._cursor.next_stage()
        damaged = self._checkpoints.damaged()
        if damaged and self.progress.step == 0:
            place = damaged[0].parent
            raise CheckpointError(
                f"every checkpoint of this node is damaged (set aside in {place}), and the journal does not reach back "
                "to the first step",
                next=f"ls {shlex.quote(str(place))}",
            )
        if self.progress.step > saved:
            # Or a node that is killed again and again before its next checkpoint would repeat ever more.
            self.save()
        for evaluation in self._journal.evaluations()[-1:]:
            self._emit(_as_event(evaluation))

    def _play_round(self) -> None:
        """Play one stage after the other, a step for each, until the round is over."""
        clock, made = RoundTimer(), GeneratedTokens()
        self._play(self._cursor.next(), clock, made)
        while (stage_run := self._cursor.next_stage()) is not None:
            self._stop.check()
            self._play(stage_run, clock, made)
        seconds = clock.seconds()
        self._emit(
            RoundEvent(
                round=self.progress.round - 1,
                rounds=self._config.game.rounds,
                seconds=seconds,
                tokens_per_second=made.per_second(seconds["generate"]),
            )
        )

    def _play(self, stage_run: StageRun, clock: RoundTimer, made: GeneratedTokens) -> None:
        self._look_ahead(stage_run)
        deadline = self._cursor.deadline()
        with clock("generate"):
            prompts = self._asked.pop(stage_run)
            groups = self._filler.fill(
                stage_run.round, prompts, self.progress.step, part=stage_run.chunk, deadline=deadline
            )
        if not groups and deadline is not None:
            time.sleep(IDLE_SECONDS)  # a swarm's clock moves on without us
            return
        with clock("verify"):
            groups = self._verify(stage_run.round, groups)
        foreign = self._share(stage_run, groups, clock)
        groups = [*groups, *foreign.groups]
        rates = pass_rates(self._journal.evaluations()) if stage_run.stage == ANSWER else {}
        manifest = Manifest(
            step=self.progress.step,
            round=stage_run.round,
            seed=derive_seed(self._config.node.seed, "step", self.progress.step),
            micro_batch=self._config.train.micro_batch,
            rows=tuple(build_rows(groups, self._step_trainer.settings, rates)),
            floor=foreign.floor,
        )
        self._journal.commit(manifest, stage_run, self.progress.round)
        with clock("train"):
            result = self._take(manifest, stage_run, self.progress.round)
        self._tell(stage_run, groups, result, made)

    def _share(self, stage_run: StageRun, groups: Sequence[Group], clock: RoundTimer) -> PeerBatch:
        """Give the swarm a turn's groups and return what its step learns from peers; nothing when alone."""
        if self._exchange is None:
            return PeerBatch()
        with clock("share"):
            accuracy = next((each.accuracy for each in self._journal.evaluations()[-1:]), None)
            return self._exchange.exchange(
                stage_run.round, stage_run.stage, groups, TrainingStatus(self.progress.step, accuracy)
            )

    def _look_ahead(self, stage_run: StageRun) -> None:
        """Ask the questions of this turn and of the rounds whose answers an API can begin with."""
        self._asked = {known: prompts for known, prompts in self._asked.items() if known.round >= stage_run.round}
        ahead = self._filler.ahead
        if self._cursor.deadline() is not None:
            ahead = min(ahead, 1)  # of a round that is missed, what was asked for was paid in vain
        if self._config.game.rounds:
            ahead = min(ahead, self._config.game.rounds - self.progress.round - 1)
        for coming in (stage_run, *(StageRun(stage_run.round + n, self._game.stages[0]) for n in range(1, ahead + 1))):
            if coming not in self._asked:
                self._asked[coming] = self._ask(coming)
                self._filler.prefetch(coming.round, self._asked[coming], self.progress.step)

    def _ask(self, stage_run: StageRun) -> list[Prompt]:
        first, count = stage_run.chunk * self._config.game.groups, self._config.game.groups
        questions = self._tasks.questions("train", stage_run.round, first + count)[first:]
        prompts = self._fitting(self._game.prompts(stage_run, questions))
        self._journal.write_prompts(stage_run.round, prompts, first)
        return prompts

    def _fitting(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Leave out prompts over the limit: cut ones would lose the question or the instructions."""
        limit = self._config.generation.max_prompt_tokens
        fitting = [prompt for prompt in prompts if len(prompt.ids) <= limit]
        # Later a round of long texts is no reason to end a node that has lived well with the limit.
        if prompts and not fitting and (prompts[0].stage == ANSWER or self.progress.round == 0):
            shortest = min(len(prompt.ids) for prompt in prompts)
            what = "question" if prompts[0].stage == ANSWER else f"prompt of the stage {prompts[0].stage}"
            raise ConfigurationError(
                f"every {what} is longer than generation.max_prompt_tokens = {limit} (the shortest has {shortest})",
                next=f"swarmctl run --set generation.max_prompt_tokens={2 * shortest}",
            )
        if len(fitting) < len(prompts):
            stage = "" if prompts[0].stage == ANSWER else f" in the stage {prompts[0].stage}"
            message = (
                f"{len(prompts) - len(fitting)} of {len(prompts)} questions left out: "
                f"longer than generation.max_prompt_tokens = {limit}{stage}"
            )
            self._emit(WarningEvent(code="long_prompts", message=message))
        return fitting

    def _verify(self, round_: int, groups: Sequence[Group]) -> list[Group]:
        verified = self._game.score(groups)
        self._journal.write_scores(round_, verified)
        return verified

    def _take(self, manifest: Manifest, stage_run: StageRun, finished: int, *, replayed: bool = False) -> StepResult:
        try:
            result = self._step_trainer.step(manifest, self._stop.is_set)
        except StepAbandoned as error:
            raise StopRequested from error
        self._cursor.advance(stage_run, finished)
        self._note_gradient(manifest.step, result.grad_norm)
        for kind, metrics in result.by_kind.items() or [(self._source.kind, {})]:
            self._emit(
                StepEvent(
                    step=manifest.step,
                    round=finished,
                    stage=stage_run.stage,
                    loss=result.loss,
                    grad_norm=result.grad_norm,
                    learning_rate=result.learning_rate,
                    tokens=result.tokens,
                    rows=result.rows,
                    **metrics,
                    source=kind,
                    replayed=replayed,
                )
            )
        return result

    def _note_gradient(self, step: int, norm: float) -> None:
        """Tell of a step that was left out. Raises ``NodeError`` where one after the other is: nothing is learned."""
        if math.isfinite(norm):
            self._left_out = 0
            return
        self._left_out += 1
        message = f"step {step} was left out: its gradient is not finite"
        self._emit(WarningEvent(code="gradient_not_finite", message=message))
        if self._left_out == MOST_LEFT_OUT:
            raise NodeError(
                f"the last {MOST_LEFT_OUT} steps were left out, as no gradient was finite: nothing is learned this way",
                next=f"swarmctl run --node {shlex.quote(self._config.node.name)} --set model.dtype=float32",
            )

    def _evaluate_if_due(self) -> None:
        """Look at the held-out questions before the first round, after the last, and every few between; never twice."""
        round_, every = self.progress.round, self._config.eval.every
        due = round_ == 0 or self._finished() or (every > 0 and round_ % every == 0)
        if not due or any(evaluation.round == round_ for evaluation in self._journal.evaluations()):
            return
        self._emit(PhaseEvent(name="evaluating", total=self._config.eval.questions))
        questions = self._tasks.questions("heldout", 0, self._config.eval.questions)
        prompts = self._fitting(self._game.prompts(StageRun(round_, self._game.stages[0]), questions))
        evaluation = evaluate(round_, self._evaluator, prompts, self._tasks)
        self._journal.write_evaluation(evaluation)
        self._emit(_as_event(evaluation))

    def _push_if_due(self) -> None:
        """Hand the newest checkpoint and its card to the hub's thread."""
        round_, step, checkpoint = self.progress.round, self.progress.step, self.progress.checkpoint
        if self._pusher is None or checkpoint is None or not self._push_due():
            return
        lessons, evaluations = self._journal.contributions(step), self._journal.evaluations()
        card = model_card(self._config, round_=round_, step=step, lessons=lessons, evaluations=evaluations)
        self._pusher.push(round_, checkpoint / MODEL, card, base_name(self._config))

    def _push_due(self) -> bool:
        return self._pusher is not None and self._pusher.due(self.progress.round, last=self._finished())

    def _tell(self, stage_run: StageRun, groups: Sequence[Group], result: StepResult, made: GeneratedTokens) -> None:
        """Report a stage to events.jsonl and to the logging back ends."""
        summaries = summarise(groups)
        for source, summary in summaries.items():
            self._emit(RolloutsEvent(round=self.progress.round, stage=stage_run.stage, source=source, **summary))
        made.add(summaries, here=self._source.kind)
        self._step_trainer.report(flatten(summaries, result, stage_run.stage))


def _as_event(evaluation: Evaluation) -> EvalEvent:
    return EvalEvent(round=evaluation.round, accuracy=evaluation.accuracy, questions=evaluation.questions)
