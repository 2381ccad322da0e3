"""The node's loop: questions, rollouts, rewards, one step, again; and what of it survives a crash."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from hivemind_exp.config import Config
from hivemind_exp.errors import CheckpointError, LimitReached, NodeError
from hivemind_exp.events import Emit
from hivemind_exp.game.base import Game, Schedule
from hivemind_exp.game.sampling.prompts import STAGE as ANSWER
from hivemind_exp.hub.card import base_name, model_card
from hivemind_exp.hub.pusher import HubPusher
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Manifest, StageRun
from hivemind_exp.peers.exchange import PeerExchange, TrainingStatus
from hivemind_exp.rollouts.types import Group, encode_completion
from hivemind_exp.seeds import derive_seed
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.sources.source import Ask, Source
from hivemind_exp.stop import StopFlag, StopRequested
from hivemind_exp.tasks.base import Tasks
from hivemind_exp.trainer.advantages import build_rows
from hivemind_exp.trainer.checkpoint_state import MODEL, save_state
from hivemind_exp.trainer.checkpoints import Checkpoint, CheckpointStore
from hivemind_exp.trainer.evaluation import evaluate, pass_rates
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer, StepAbandoned, StepResult
from hivemind_exp.trainer.metrics import GeneratedTokens, flatten, summarise
from hivemind_exp.trainer.progress import NodeProgress
from hivemind_exp.trainer.round_loop import RoundLoop
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


class HivemindGRPOTrainer(RoundLoop):
    """Plays rounds whose verified groups become optimizer steps."""

    def __init__(
        self,
        config: Config,
        *,
        step_trainer: SourceGRPOTrainer,
        tokenizer: PreTrainedTokenizerBase,
        sources: Mapping[str, Source],
        local: LocalSource,
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
        """Put the parts together. ``local`` is the one of the sources that is evaluated."""
        super().__init__(
            config,
            sources=sources,
            encode=lambda text, truncated: encode_completion(tokenizer, text, truncated),
            tasks=tasks,
            game=game,
            schedule=schedule,
            journal=journal,
            emit=emit,
            stop=stop,
            progress=progress,
        )
        self._step_trainer = step_trainer
        self._tokenizer = tokenizer
        self._local = local
        self._checkpoints = checkpoints
        self._pusher = pusher
        self._exchange = exchange
        self._left_out = 0
        self._saved_in = step_trainer.policy.num_parameters() * STATE_BYTES / DISK_BYTES_PER_SECOND

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
        self._emit("checkpoint", round=saved.round, path=str(saved.path), seconds=round(self._saved_in, 3))

    def _resume(self, checkpoint: Checkpoint | None) -> None:
        """Repeat the steps that the journal holds beyond the checkpoint: same rows, same order, same weights."""
        if checkpoint is not None:
            self.progress.round, self.progress.step = checkpoint.round, checkpoint.step
            self.progress.checkpoint = checkpoint.path
            self._cursor.resume(self._journal.stage_run(checkpoint.step - 1))
        self._filler.weights_moved(self.progress.step)
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
            self._emit("eval", **_as_event(evaluation.round, evaluation.accuracy, evaluation.questions))

    def _play_round(self) -> None:
        """Play one stage after the other, a step for each, until the round is over."""
        timer, made = RoundTimer(), GeneratedTokens()
        self._play(self._cursor.next(), timer, made)
        while (stage_run := self._cursor.next_stage()) is not None:
            self._stop.check()
            self._play(stage_run, timer, made)
        self._emit_round(self.progress.round - 1, timer, made.per_second(timer.seconds()["generate"]))

    def _play(self, stage_run: StageRun, timer: RoundTimer, made: GeneratedTokens) -> None:
        groups = self._complete(stage_run, timer)
        if not groups and self._cursor.deadline() is not None:
            time.sleep(IDLE_SECONDS)  # a swarm's clock moves on without us
            return
        if self._exchange is not None:
            with timer("share"):
                groups = groups + self._share(self._exchange, stage_run, groups)
        rates = pass_rates(self._journal.evaluations()) if stage_run.stage == ANSWER else {}
        manifest = Manifest(
            step=self.progress.step,
            round=stage_run.round,
            seed=derive_seed(self._config.node.seed, "step", self.progress.step),
            micro_batch=self._config.train.micro_batch,
            rows=tuple(build_rows(groups, self._config.train, rates)),
            floor=next((source.floor for source in self._sources.values() if source.floor is not None), None),
        )
        self._journal.commit(manifest, stage_run, self.progress.round)
        with timer("train"):
            result = self._take(manifest, stage_run, self.progress.round)
        self._tell(stage_run, groups, result, made)

    def _share(self, exchange: PeerExchange, stage_run: StageRun, groups: Sequence[Group]) -> list[Group]:
        """Give the swarm a stage's groups, and return what its step learns from peers."""
        accuracy = next((each.accuracy for each in self._journal.evaluations()[-1:]), None)
        exchange.share(stage_run.round, stage_run.stage, groups, TrainingStatus(self.progress.step, accuracy))
        return [group for batch in self._sources["peers"].collect(Ask(stage_run)) for group in batch]

    def _take(self, manifest: Manifest, stage_run: StageRun, finished: int, *, replayed: bool = False) -> StepResult:
        try:
            result = self._step_trainer.step(manifest, self._stop.is_set)
        except StepAbandoned as error:
            raise StopRequested from error
        self._cursor.advance(stage_run, finished)
        learned = {"learning_rate": result.learning_rate, "tokens": result.tokens, "rows": result.rows}
        base = {"step": manifest.step, "round": finished, "stage": stage_run.stage}
        base |= {"loss": result.loss, "grad_norm": result.grad_norm}
        self._filler.weights_moved(self.progress.step)
        if self._note_gradient(manifest.step, result.grad_norm) and not replayed:
            for source in self._sources.values():
                source.learned_from([row for row in manifest.rows if row.kind is source.kind])
        for kind, metrics in result.by_kind.items() or [(self._local.kind, _NOTHING_MEASURED)]:
            self._emit("step", **base, **learned, **metrics, source=kind, replayed=replayed)
        return result

    def _note_gradient(self, step: int, norm: float) -> bool:
        """Tell of a step that was left out, and return whether it was not.

        Raises ``NodeError`` where one after the other is: nothing is learned.
        """
        if math.isfinite(norm):
            self._left_out = 0
            return True
        self._left_out += 1
        self._emit(
            "warning", code="gradient_not_finite", message=f"step {step} was left out: its gradient is not finite"
        )
        if self._left_out == MOST_LEFT_OUT:
            raise NodeError(
                f"the last {MOST_LEFT_OUT} steps were left out, as no gradient was finite: nothing is learned this way",
                next=f"swarmctl run --node {shlex.quote(self._config.node.name)} --set model.dtype=float32",
            )
        return False

    def _evaluate_if_due(self) -> None:
        """Look at the held-out questions before the first round, after the last, and every few between; never twice."""
        round_, every = self.progress.round, self._config.eval.every
        due = round_ == 0 or self._finished() or (every > 0 and round_ % every == 0)
        if not due or any(evaluation.round == round_ for evaluation in self._journal.evaluations()):
            return
        self._emit("phase", name="evaluating", done=None, total=self._config.eval.questions)
        questions = self._tasks.questions("heldout", 0, self._config.eval.questions)
        prompts = self._fitting(self._game.prompts(StageRun(round_, self._game.stages[0]), questions))
        evaluation = evaluate(round_, self._local, prompts, self._tasks)
        self._journal.write_evaluation(evaluation)
        self._emit("eval", **_as_event(round_, evaluation.accuracy, evaluation.questions))

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
            self._emit("rollouts", round=self.progress.round, stage=stage_run.stage, source=source, **summary)
        made.add(summaries, here=self._local.kind)
        self._step_trainer.report(flatten(summaries, result, stage_run.stage))


_NOTHING_MEASURED: dict[str, float | None] = {"entropy": None, "kl": None, "clip_fraction": None}
"""For a step in which no row weighed anything."""


def _as_event(round_: int, accuracy: float, questions: int) -> dict[str, object]:
    return {"round": round_, "accuracy": accuracy, "questions": questions, "split": "heldout"}
