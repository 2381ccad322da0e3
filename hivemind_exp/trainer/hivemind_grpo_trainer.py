"""The node's loop: questions, rollouts, rewards, one step, again; and what of it survives a crash."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from hivemind_exp.config import Config
from hivemind_exp.errors import CheckpointError, ConfigurationError, LimitReached, NodeError
from hivemind_exp.events import Emit
from hivemind_exp.game.sampling.prompts import STAGE, build_prompts
from hivemind_exp.hub.card import base_name, model_card
from hivemind_exp.hub.pusher import HubPusher
from hivemind_exp.seeds import derive_seed
from hivemind_exp.sources.base import Group, Prompt, Source
from hivemind_exp.sources.filler import GroupFiller
from hivemind_exp.sources.journal import Journal
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.sources.orders import Engine
from hivemind_exp.stop import StopFlag, StopRequested
from hivemind_exp.tasks.base import Tasks
from hivemind_exp.trainer.checkpoints import Checkpoint, CheckpointStore
from hivemind_exp.trainer.clock import RoundClock
from hivemind_exp.trainer.evaluation import evaluate, pass_rates
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer, StepAbandoned, StepResult
from hivemind_exp.trainer.manifest import Manifest
from hivemind_exp.trainer.reporting import flatten, summarise
from hivemind_exp.trainer.rows import build_rows
from hivemind_exp.trainer.state import MODEL, save_state

MOST_LEFT_OUT = 16
"""Steps in a row without a finite gradient, after which a node gives up. float16's scaler finds its scale in fewer."""
PARTING_SECONDS = 3.0
"""A checkpoint that takes longer than this is not written on the way out: the journal carries the steps since."""
STATE_BYTES = 12
"""Bytes of a checkpoint for each weight: itself and AdamW's two moments."""
DISK_BYTES_PER_SECOND = 5e8
"""Speed of a disk that has not been seen writing yet."""


@dataclass(slots=True)
class Progress:
    """How far the node is."""

    round: int = 0
    """Rounds finished."""
    step: int = 0
    """Optimizer steps taken."""
    checkpoint: Path | None = None
    """The newest one."""


class HivemindGRPOTrainer:
    """Plays rounds until there are enough, or until it is asked to stop."""

    def __init__(
        self,
        config: Config,
        *,
        stepper: SourceGRPOTrainer,
        tokenizer: PreTrainedTokenizerBase,
        source: Source,
        evaluator: LocalSource,
        offload: Engine | None,
        tasks: Tasks,
        journal: Journal,
        checkpoints: CheckpointStore,
        emit: Emit,
        stop: StopFlag,
        progress: Progress,
        pusher: HubPusher | None = None,
    ) -> None:
        """Put the parts together. ``progress`` is kept up to date, for whoever asks after an end of any kind."""
        self._config = config
        self._stepper = stepper
        self._tokenizer = tokenizer
        self._source = source
        self._evaluator = evaluator
        self._tasks = tasks
        self._journal = journal
        self._checkpoints = checkpoints
        self._emit = emit
        self._stop = stop
        self._asked: dict[int, list[Prompt]] = {}
        self._filler = GroupFiller(
            config,
            journal=journal,
            local=source,
            offload=offload,
            tokenizer=tokenizer,
            verify=self._score,
            emit=emit,
        )
        self._pusher = pusher
        self._left_out = 0
        self._saved_in = stepper.policy.num_parameters() * STATE_BYTES / DISK_BYTES_PER_SECOND
        self.progress = progress

    def run(self, checkpoint: Checkpoint | None) -> None:
        """Go on from ``checkpoint`` (whose model the stepper already has) to the last round.

        Raises ``StopRequested`` after a stop, with everything saved that a restart needs.
        """
        try:
            self._resume(checkpoint)
            self._look_ahead()
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
            save_state(self._stepper, self._tokenizer, directory)

        saved = self._checkpoints.save(self.progress.step, self.progress.round, write)
        self._journal.forget_manifests(self._checkpoints.oldest_step())
        self._saved_in = time.perf_counter() - begun
        self.progress.checkpoint = saved.path
        self._emit("checkpoint", round=saved.round, path=str(saved.path), seconds=round(self._saved_in, 3))

    def _advance(self, round_: int, step: int) -> None:
        self.progress.round, self.progress.step = round_, step

    def _finished(self) -> bool:
        return 0 < self._config.game.rounds <= self.progress.round

    def _resume(self, checkpoint: Checkpoint | None) -> None:
        """Repeat the steps that the journal holds beyond the checkpoint: same rows, same order, same weights."""
        if checkpoint is not None:
            self._advance(checkpoint.round, checkpoint.step)
            self.progress.checkpoint = checkpoint.path
        saved = self.progress.step
        for manifest in self._journal.manifests(saved):
            self._take(manifest, replayed=True)
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
        round_, clock = self.progress.round, RoundClock()
        self._look_ahead()
        with clock("generate"):
            groups = self._filler.fill(round_, self._asked.pop(round_), self.progress.step)
        with clock("verify"):
            groups = self._verify(round_, groups)
        manifest = Manifest(
            step=self.progress.step,
            round=round_,
            seed=derive_seed(self._config.node.seed, "step", self.progress.step),
            micro_batch=self._config.train.micro_batch,
            rows=tuple(build_rows(groups, self._stepper.settings, pass_rates(self._journal.evaluations()))),
        )
        self._journal.commit(manifest)
        with clock("train"):
            result = self._take(manifest)
        self._tell(round_, groups, result, clock)

    def _look_ahead(self) -> None:
        """Ask the questions of this round and of those whose completions an API can begin with."""
        first, total = self.progress.round, self._config.game.rounds
        for round_ in range(first, first + 1 + self._filler.ahead):
            if round_ in self._asked or (total and round_ >= total):
                continue
            self._asked[round_] = self._ask(round_)
            self._filler.prefetch(round_, self._asked[round_], self.progress.step)

    def _ask(self, round_: int) -> list[Prompt]:
        questions = self._tasks.questions("train", round_, self._config.game.groups)
        prompts = self._fitting(build_prompts(questions, self._tokenizer))
        self._journal.write_prompts(round_, prompts)
        return prompts

    def _fitting(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Leave out prompts over the limit: cut ones would lose the question or the instructions."""
        limit = self._config.generation.max_prompt_tokens
        fitting = [prompt for prompt in prompts if len(prompt.ids) <= limit]
        if not fitting:
            shortest = min(len(prompt.ids) for prompt in prompts)
            raise ConfigurationError(
                f"every question is longer than generation.max_prompt_tokens = {limit} (the shortest has {shortest})",
                next=f"swarmctl run --set generation.max_prompt_tokens={2 * shortest}",
            )
        if len(fitting) < len(prompts):
            self._emit(
                "warning",
                code="long_prompts",
                message=f"{len(prompts) - len(fitting)} of {len(prompts)} questions left out: "
                f"longer than generation.max_prompt_tokens = {limit}",
            )
        return fitting

    def _verify(self, round_: int, groups: Sequence[Group]) -> list[Group]:
        verified = self._score(groups)
        self._journal.write_scores(round_, verified)
        return verified

    def _score(self, groups: Sequence[Group]) -> list[Group]:
        questions = [group.prompt.question for group in groups for _ in group.rollouts]
        scores = iter(self._tasks.score(questions, [r.text for group in groups for r in group.rollouts]))
        return [replace(group, scores=tuple(next(scores) for _ in group.rollouts)) for group in groups]

    def _take(self, manifest: Manifest, *, replayed: bool = False) -> StepResult:
        try:
            result = self._stepper.take(manifest, self._stop.is_set)
        except StepAbandoned as error:
            raise StopRequested from error
        self._advance(manifest.round + 1, manifest.step + 1)
        learned = {"learning_rate": result.learning_rate, "tokens": result.tokens, "rows": result.rows}
        base = {"step": manifest.step, "round": manifest.round, "loss": result.loss, "grad_norm": result.grad_norm}
        self._note_gradient(manifest.step, result.grad_norm)
        for kind, metrics in result.by_kind.items() or [(self._source.kind, _NOTHING_MEASURED)]:
            self._emit("step", **base, **learned, **metrics, source=kind, replayed=replayed)
        return result

    def _note_gradient(self, step: int, norm: float) -> None:
        """Tell of a step that was left out. Raises ``NodeError`` where one after the other is: nothing is learned."""
        if math.isfinite(norm):
            self._left_out = 0
            return
        self._left_out += 1
        self._emit(
            "warning", code="gradient_not_finite", message=f"step {step} was left out: its gradient is not finite"
        )
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
        self._emit("phase", name="evaluating", done=None, total=self._config.eval.questions)
        questions = self._tasks.questions("heldout", 0, self._config.eval.questions)
        prompts = self._fitting(build_prompts(questions, self._tokenizer))
        evaluation = evaluate(round_, self._evaluator, prompts, self._tasks)
        self._journal.write_evaluation(evaluation)
        self._emit("eval", **_as_event(round_, evaluation.accuracy, evaluation.questions))

    def _push_if_due(self) -> None:
        """Hand the newest checkpoint and its card to the hub's thread."""
        round_, step, checkpoint = self.progress.round, self.progress.step, self.progress.checkpoint
        if self._pusher is None or checkpoint is None or not self._push_due():
            return
        lessons, evaluations = self._journal.lessons(step), self._journal.evaluations()
        card = model_card(self._config, round_=round_, step=step, lessons=lessons, evaluations=evaluations)
        self._pusher.push(round_, checkpoint / MODEL, card, base_name(self._config))

    def _push_due(self) -> bool:
        return self._pusher is not None and self._pusher.due(self.progress.round, last=self._finished())

    def _tell(self, round_: int, groups: Sequence[Group], result: StepResult, clock: RoundClock) -> None:
        """Report a round to events.jsonl and to the logging back ends."""
        seconds, summaries = clock.seconds(), summarise(groups)
        for source, summary in summaries.items():
            self._emit("rollouts", round=round_, stage=STAGE, source=source, **summary)
        tokens = sum(int(summary["tokens"] or 0) for summary in summaries.values())
        # What an API generates it may have generated long before: the time spent waiting for it is no measure.
        here = all(kind is self._source.kind for kind in summaries)
        rate = tokens / seconds["generate"] if here and seconds["generate"] > 0 else None
        self._emit("round", round=round_, rounds=self._config.game.rounds, seconds=seconds, tokens_per_second=rate)
        self._stepper.report(flatten(summaries, result))


_NOTHING_MEASURED: dict[str, float | None] = {"entropy": None, "kl": None, "clip_fraction": None}
"""For a step in which no row weighed anything."""


def _as_event(round_: int, accuracy: float, questions: int) -> dict[str, object]:
    return {"round": round_, "accuracy": accuracy, "questions": questions, "split": "heldout"}
