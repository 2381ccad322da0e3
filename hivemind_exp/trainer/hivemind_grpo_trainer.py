"""A training node's loop: questions, rollouts, rewards and a step, over and over; evaluations; and crash recovery."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from hivemind_exp.errors import CheckpointError, LimitReached
from hivemind_exp.events import CheckpointEvent, EvalEvent, PhaseEvent, RolloutsEvent, StepEvent, WarningEvent, discard
from hivemind_exp.game.sampling.game import STAGE as ANSWER
from hivemind_exp.hub.card import base_name, model_card
from hivemind_exp.hub.pusher import HubPusher
from hivemind_exp.journal.audit import StepOutcome
from hivemind_exp.journal.records import Evaluation, Manifest, StageRun
from hivemind_exp.peers.exchange import PeerExchange, TrainingStatus
from hivemind_exp.peers.sampler import FURTHEST
from hivemind_exp.rollouts.types import Group
from hivemind_exp.round_progress import WorkProgress
from hivemind_exp.seeds import derive_seed
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.stop import StopRequested
from hivemind_exp.trainer.advantages import build_rows, count_tokens
from hivemind_exp.trainer.canary import Canary
from hivemind_exp.trainer.checkpoints import MODEL, Checkpoint, CheckpointStore
from hivemind_exp.trainer.collapse import CollapseCheck
from hivemind_exp.trainer.evaluation import evaluate, pass_rates
from hivemind_exp.trainer.format_reward import FormatReward
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer, StepAbandoned
from hivemind_exp.trainer.pacing import question_result
from hivemind_exp.trainer.pending_step import within_limit
from hivemind_exp.trainer.refill import best, has_own, refill
from hivemind_exp.trainer.round_loop import WARM_START, RoundLoop, RoundTimer, summarise, term_means
from hivemind_exp.trainer.skipped_steps import SkippedSteps
from hivemind_exp.trainer.stale_rows import StaleRows
from hivemind_exp.trainer.step_measures import StepResult
from hivemind_exp.trainer.token_teacher import TokenTeacher
from hivemind_exp.trainer.warm_start import WarmStart

PARTING_SECONDS = 3.0
"""On a stop, a checkpoint that takes longer than this is not written, or not finished. The journal holds the steps
since the last."""
STATE_BYTES = 12
"""Bytes per weight in a checkpoint: the weight and AdamW's two moments."""
DISK_BYTES_PER_SECOND = 5e8
"""Assumed speed of the disk until a first checkpoint is timed."""
IDLE_SECONDS = 0.5
"""Pause of a node that plays by a swarm's clock when its sources returned nothing."""


@dataclass(kw_only=True)
class HivemindGRPOTrainer(RoundLoop):
    """Plays rounds and trains on their verified groups."""

    step_trainer: SourceGRPOTrainer
    local: LocalSource
    """The source that is evaluated."""
    checkpoints: CheckpointStore
    pusher: HubPusher | None = None
    exchange: PeerExchange | None = None
    teacher: TokenTeacher | None = None
    """Scores the node's own completions."""
    canary: Canary | None = None
    conditions: str = "{}"
    """Recorded with each step's result (``Conditions``)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        arguments = self.step_trainer.args
        self._skipped = SkippedSteps(self.config, arguments.bf16 or arguments.fp16, self.emit)
        self._format = FormatReward(self.config.game.format_reward, self.style, self.journal, self.emit)
        self._stale = StaleRows(self.config, self.emit)
        self._collapse = CollapseCheck(self.config, self.emit)
        self._collapse.remember(self.journal.evaluations())
        self._saved_in = self.step_trainer.policy.num_parameters() * STATE_BYTES / DISK_BYTES_PER_SECOND

    def run(self, checkpoint: Checkpoint | None) -> None:
        """Resume from ``checkpoint`` (whose model ``step_trainer`` already has) and run to the last round.

        Raises ``StopRequested`` after a stop. By then everything that a restart needs is saved.
        """
        if self.canary is not None:
            self.canary.save = self.save
        for name in self.config.game.only_sampling if self.config.game.kind == "study-group" else ():
            message = f"game.{name} has no effect, because this node's swarm plays the game study-group"
            self.emit(WarningEvent(code="no_effect", message=message))
        warm_start = self._prepare_warm_start()
        try:
            self._resume(checkpoint)
            warms_up = warm_start is not None and self.progress.step == 0
            if not self._finished() and not warms_up:  # the weights are about to move
                self._look_ahead(self._cursor.next())
            self._evaluate_if_due()
            if warm_start is not None and self.progress.step == 0:
                self._start_warm(warm_start)
            while not self._finished():
                self.stop.check()
                self._play_round()
                self._evaluate_if_due()
                if self.progress.round % self.config.checkpoint.every == 0 or self._finished() or self._push_due():
                    self.save()
                self._push_if_due()
            self._collapse.finished()
            self._push_if_due()  # a finished node may have been restarted with a push newly configured
            if self.pusher is not None:
                self.pusher.finish(self.stop)
        except (StopRequested, LimitReached):
            if self._saved_in < PARTING_SECONDS:
                self.save()
            raise

    def save(self) -> None:
        """Write a checkpoint, and delete from the journal what is no longer needed. Raises ``DiskFull``.

        Does nothing if these weights are saved already, for example after a good evaluation (``Canary``).

        Raises ``StopRequested`` if it is not done soon after a stop was requested. Then nothing is saved.
        """
        begun = time.perf_counter()
        check = self.stop.check_later(PARTING_SECONDS)
        write = partial(self.step_trainer.save, check=check)
        try:
            saved = self.checkpoints.save(self.progress.step, self.progress.round, write, check=check)
        except StopRequested:
            self._saved_in = time.perf_counter() - begun
            raise
        if saved.path == self.progress.checkpoint:
            return
        oldest = self.checkpoints.oldest_step()
        self.journal.forget_manifests(oldest)
        if self.config.journal.keep_rounds:
            first = self.journal.first_round(self.progress.round - self.config.journal.keep_rounds, oldest)
            self.journal.prune(first)
        self._saved_in = time.perf_counter() - begun
        self.progress.checkpoint = saved.path
        self.emit(CheckpointEvent(round=saved.round, path=str(saved.path), seconds=round(self._saved_in, 3)))

    def _resume(self, checkpoint: Checkpoint | None) -> None:
        """Replay the journal's steps since the checkpoint: same rows, same order, same resulting weights."""
        if checkpoint is not None:
            self.progress.round, self.progress.step = checkpoint.round, checkpoint.step
            self.progress.checkpoint = checkpoint.path
            self._cursor.resume(self.journal.stage_run(checkpoint.step - 1))
        self._filler.weights_moved(self.progress.step)
        saved = self.progress.step
        known_steps = self.journal.steps()
        for manifest in self.journal.manifests(saved):
            done, total = self.progress.step - saved, known_steps - saved
            self.emit(PhaseEvent(name="repeating steps from the journal", done=done, total=total))
            self._settle()
            known = self.journal.stage_run(manifest.step) or (StageRun(manifest.round, ANSWER), manifest.round)
            pending = manifest.step == self.journal.steps_taken()
            self._take(self._within_limit(manifest) if pending else manifest, *known, replayed=True)
        self._settle()
        self._cursor.next_stage()
        gap = known_steps > self.progress.step
        if self.progress.step == 0 and (gap or self.checkpoints.damaged()):
            raise CheckpointError(
                f"no checkpoint of this node is intact (damaged ones: {self.checkpoints.root}), and its journal does "
                "not reach back to the first step, so it cannot resume. You can start a new node with its settings"
            )
        if gap:
            message = (
                f"the journal is missing step {self.progress.step + 1}: the node continues from there, after round "
                f"{self.progress.round}, and repeats the later steps"
            )
            self.emit(WarningEvent(code="steps_lost", message=message))
            self.journal.rewind(self.progress.step, self.progress.round)
        if (steps := self.journal.steps()) < saved:
            message = (
                f"the journal ends at step {steps}, before the checkpoint at step {saved}: rollouts and evaluations "
                "are lost. Training continues from the checkpoint"
            )
            self.emit(WarningEvent(code="journal_lost", message=message))
        if self.progress.step > saved:
            # Otherwise a node that keeps getting killed before its next checkpoint would replay more each time.
            self.save()
        for evaluation in self.journal.evaluations()[-1:]:
            self.emit(_as_event(evaluation))

    def _within_limit(self, manifest: Manifest) -> Manifest:
        """Return a step that was not taken, as the present limit of completions allows it."""
        longest = self.config.generation.max_completion_tokens
        kept, count = within_limit(manifest, longest)
        if count:
            self.journal.replace(kept)
            message = (
                f"left {count} completions of more than {longest} tokens (generation.max_completion_tokens) out of "
                f"step {manifest.step + 1}, which had not been taken yet"
            )
            self.emit(WarningEvent(code="less_memory", message=message))
        return kept

    def _settle(self) -> None:
        """Make a restoration that the node was killed in, or that an older checkpoint does not contain yet."""
        if self.canary is not None and self.canary.finish_restoration():
            self._filler.weights_moved(self.progress.step)

    def _bar(self) -> None:
        """Stop learning from those who are quarantined."""
        barred = frozenset() if self.canary is None else self.canary.barred()
        self._filler.barred = barred
        if self.exchange is not None:
            self.exchange.sampler.barred = barred

    def _prepare_warm_start(self) -> WarmStart | None:
        if not self.config.warm_start.steps or self.config.game.kind != "sampling":
            return None
        return WarmStart(
            config=self.config,
            style=self.style,
            tasks=self.tasks,
            game=self.game,
            local=self.local,
            tokenizer=self.step_trainer.processing_class,
            encode=self.encode,
            emit=self.emit,
            micro_batch=partial(self.step_trainer.micro_batch, say=self._say_less_memory),
        )

    def _start_warm(self, warm_start: WarmStart) -> None:
        """Take the steps before the first round. All are committed first: half of them cannot be sampled again."""
        manifests, about = warm_start.steps(), StageRun(0, WARM_START)
        if manifests:
            self.journal.commit_all(manifests, about, finished=0)
        for manifest in manifests:
            self._take(manifest, about, 0)

    def _play_round(self) -> None:
        """Play the stages in order, with one step each, until the round is over."""
        timer = RoundTimer()
        self._play(self._cursor.next(), timer)
        while (stage_run := self._cursor.next_stage()) is not None:
            self.stop.check()
            self._play(stage_run, timer)
        self._emit_round(self.progress.round - 1, timer, timer.tokens_per_second())

    def _play(self, stage_run: StageRun, timer: RoundTimer) -> None:
        self._bar()
        asked = self._complete(stage_run, timer)
        if not asked and self._cursor.deadline() is not None:
            time.sleep(IDLE_SECONDS)  # the swarm's clock moves on without this node
            return
        kept = asked
        if stage_run.stage == ANSWER:
            asked = refill(kept, self._most_further(), partial(self._ask_further, stage_run, timer))
            kept = best(asked, len(kept))
            timer.count_groups(asked)
        with timer("share"):
            if self.exchange is not None:
                self._share(self.exchange, stage_run, kept)
            drawn = self._filler.added(stage_run)
        if self.teacher is not None and not self._filler.api_barred:
            with timer("verify"):
                kept = self.teacher.score(stage_run, kept, self.progress.step)
        rates = pass_rates(self.journal.evaluations()) if stage_run.stage == ANSWER else {}
        groups = [*kept, *drawn]
        rows = build_rows(groups, self.config.train, rates)
        chosen = tuple(self._filler.rows(stage_run.round, groups, rows))
        manifest = Manifest(
            step=self.progress.step,
            round=stage_run.round,
            seed=derive_seed(self.config.node.seed, "step", self.progress.step),
            micro_batch=self.step_trainer.micro_batch(chosen, self._say_less_memory),
            rows=chosen,
            floor=next((source.floor for source in self.sources.values() if source.floor is not None), None),
            tokens=count_tokens(groups, self.config.train),
        )
        answered = filter(has_own, asked) if stage_run.stage == ANSWER else ()
        results = [question_result(stage_run.round, group, self.style) for group in answered]
        self.journal.commit(manifest, stage_run, self.progress.round, results)
        self._format.count(results)
        self._stale.count(groups)
        groups = [*asked, *drawn]
        self._filler.check_usefulness(stage_run, groups, manifest.rows)
        if stage_run.stage == ANSWER:
            self._collapse.count(groups, self._unjudged)
        with timer("train"):
            result = self._take(manifest, stage_run, self.progress.round)
        summaries, terms = summarise(groups), term_means(groups)
        for source, summary in summaries.items():
            where = {"round": self.progress.round, "stage": stage_run.stage, "source": source}
            self.emit(RolloutsEvent(**where, **summary, terms=terms.get(source)))
            summary |= {f"term/{name}": value for name, value in terms.get(source, {}).items()}
        timer.count_tokens(summaries, here=self._filler.here)
        self.step_trainer.report(flatten(summaries, result, stage_run.stage))

    def _rewards(self, groups: list[Group]) -> list[Group]:
        return self._format.add(groups) if self.config.game.kind == "sampling" else groups

    def _most_further(self) -> int:
        """Return how many extra questions a round may ask. A study group's later stages need the round's own ones."""
        return self.config.game.refill if self.config.game.kind == "sampling" else 0

    def _ask_further(self, stage_run: StageRun, timer: RoundTimer, taken: int, count: int) -> list[Group]:
        """Return the verified groups of a stage's next ``count`` questions, after ``taken`` further ones.

        Leaves out questions that the round has asked already and prompts over the limit. In a swarm, it also leaves out
        questions with an index that peers would reject.
        """
        first, limit = self.config.game.groups + taken, self.config.generation.max_prompt_tokens
        questions = self.tasks.questions("train", stage_run.round, first + count)
        known = {question.digest for question in questions[:first]}
        new = {each.digest: each for each in questions[first:] if each.digest not in known}
        if self.exchange is not None:
            new = {digest: each for digest, each in new.items() if each.index < FURTHEST}
        prompts = [each for each in self.game.prompts(stage_run, list(new.values())) if len(each.ids) <= limit]
        self.journal.write_prompts(stage_run.round, prompts, first)
        with timer("generate"):
            groups = self._filler.refill(stage_run, prompts, first)
        return self._verify(stage_run, groups, timer)

    def _share(self, exchange: PeerExchange, stage_run: StageRun, groups: Sequence[Group]) -> None:
        """Share a stage's groups with the swarm."""
        accuracy = next((each.accuracy for each in self.journal.evaluations()[-1:]), None)
        exchange.share(stage_run.round, stage_run.stage, groups, TrainingStatus(self.progress.step, accuracy))

    def _take(self, manifest: Manifest, stage_run: StageRun, finished: int, *, replayed: bool = False) -> StepResult:
        self.step_trainer.work = WorkProgress(discard if replayed or stage_run.stage == WARM_START else self.emit)
        self._taken = manifest
        try:
            result = self.step_trainer.step(manifest, self.stop.is_set, self._shrunk)
        except StepAbandoned as error:
            raise StopRequested from error
        self.step_trainer.free_gradients()
        self.journal.write_result(manifest.step, StepOutcome(result.loss, result.grad_norm, self.conditions))
        self._cursor.advance(stage_run, finished)
        self._filler.weights_moved(self.progress.step)
        if self._skipped.note(manifest.step, result.grad_norm) and not replayed:
            self._filler.learned_from(self._taken.rows)
        step: dict[str, Any] = {"step": manifest.step, "round": finished, "stage": stage_run.stage}
        step |= {name: getattr(result, name) for name in ("loss", "grad_norm", "learning_rate", "tokens", "rows")}
        for kind, metrics in result.by_kind.items() or [(self.local.kind, {})]:
            self.emit(StepEvent(**step, **metrics, source=kind, replayed=replayed))
        return result

    def _shrunk(self, manifest: Manifest, what: str) -> None:
        """Record how a step is really taken, before it is repeated with less memory: a replay takes it the same way."""
        self.journal.replace(manifest)
        self._taken = manifest
        if what:
            self._say_less_memory(what)

    def _say_less_memory(self, what: str) -> None:
        self.emit(WarningEvent(code="less_memory", message=what))

    def _evaluate_if_due(self) -> None:
        """Evaluate before the first round, after the last, and every ``eval.every`` rounds. Never twice for a round."""
        round_, every = self.progress.round, self.config.eval.every
        due = round_ == 0 or self._finished() or (every > 0 and round_ % every == 0)
        if not due or any(each.round == round_ for each in self.journal.evaluations()):
            return
        self.emit(PhaseEvent(name="evaluating", total=self.config.eval.questions))
        questions = self.tasks.questions("heldout", 0, self.config.eval.questions)
        prompts = self._fitting(self.game.prompts(StageRun(round_, self.game.stages[0]), questions))
        evaluation = evaluate(round_, self.local, prompts, self.tasks)
        self.journal.write_evaluation(evaluation)
        self.emit(_as_event(evaluation))
        if self.canary is not None and self.canary.watch(evaluation):
            self._filler.weights_moved(self.progress.step)
        else:
            self._collapse.evaluated(self.journal.evaluations())

    def _push_if_due(self) -> None:
        """Hand the newest checkpoint and its model card to the upload thread."""
        round_, step, checkpoint = self.progress.round, self.progress.step, self.progress.checkpoint
        if self.pusher is None or checkpoint is None or not self._push_due():
            return
        lessons, evaluations = self.journal.contributions(step), self.journal.evaluations()
        card = model_card(self.config, round_=round_, step=step, lessons=lessons, evaluations=evaluations)
        self.pusher.push(round_, checkpoint / MODEL, card, base_name(self.config))

    def _push_due(self) -> bool:
        return self.pusher is not None and self.pusher.due(self.progress.round, last=self._finished())


def _as_event(evaluation: Evaluation) -> EvalEvent:
    return EvalEvent(round=evaluation.round, accuracy=evaluation.accuracy, questions=evaluation.questions)


def flatten(
    summaries: Mapping[Kind, Mapping[str, float | None]], result: StepResult, stage: str = ANSWER
) -> dict[str, float | None]:
    """Return a flat table of metrics for TensorBoard and Weights & Biases: "reward/policy", "kl/policy", …

    Metrics of a later stage are prefixed with its name: "critique/reward/policy".
    """
    table: dict[str, float | None] = {"loss": result.loss, "grad_norm": result.grad_norm}
    table["learning_rate"] = result.learning_rate
    for kind, summary in summaries.items():
        table |= {f"{name}/{kind}": value for name, value in summary.items()}
    for kind, measured in result.by_kind.items():
        table |= {f"{name}/{kind}": value for name, value in measured.items()}
    return table if stage == ANSWER else {f"{stage}/{name}": value for name, value in table.items()}
