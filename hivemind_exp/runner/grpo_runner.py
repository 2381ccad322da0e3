"""Builds a node from its configuration, runs it and shuts it down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from hivemind_exp.config import OFF, Config
from hivemind_exp.errors import KeyProblem
from hivemind_exp.events import Emit, PhaseEvent, StartEvent, WarningEvent, WorkersEvent
from hivemind_exp.game.base import SequentialSchedule
from hivemind_exp.game.last_stage import LAST_STAGE
from hivemind_exp.game.node_style import read_levels
from hivemind_exp.game.prompt_style import build_chats, configured
from hivemind_exp.game.sampling.game import SamplingGame
from hivemind_exp.journal.canary_log import CanaryLog
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.node_charter import node_charter
from hivemind_exp.models.device import Compute, resolve_compute, use_threads
from hivemind_exp.models.lean_imports import without_scipy
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.node_id import node_id
from hivemind_exp.offload.build import OpenAIModelWrapper
from hivemind_exp.offload.judge import check_judge, is_judged
from hivemind_exp.offload.process.client import OffloadClient, open_offload
from hivemind_exp.offload.settings import is_distilled, is_offloaded, is_relay
from hivemind_exp.offload.spending import saved_total
from hivemind_exp.parallel.team import Team
from hivemind_exp.processes.imports import uncollected
from hivemind_exp.rollouts.types import encode_completion
from hivemind_exp.runner.held_out import check_held_out
from hivemind_exp.runner.open_game import PeerContext, open_game
from hivemind_exp.runner.report_packages import check_reports
from hivemind_exp.secrets import Secrets
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.sources.registry import build_sources, other_source_name, uses_api
from hivemind_exp.sources.schedule import rounds_ahead
from hivemind_exp.sources.source import NodeParts, Source
from hivemind_exp.stop import StopFlag
from hivemind_exp.swarm.charter_check import charter_levels
from hivemind_exp.tasks.base import Tasks
from hivemind_exp.tasks.mixture import Mixture
from hivemind_exp.tasks.registry import check_conversations, check_warmup, title
from hivemind_exp.trainer.checkpoints import Checkpoint, CheckpointStore
from hivemind_exp.trainer.conditions import Conditions
from hivemind_exp.trainer.judge import Judge
from hivemind_exp.trainer.pacing import JournalPacing
from hivemind_exp.trainer.round_loop import NodeProgress, RelayLoop, encode_as_bytes

if TYPE_CHECKING:
    from hivemind_exp.hub.pusher import HubPusher
    from hivemind_exp.runner.build_swarm import SwarmSession
    from hivemind_exp.trainer.canary import Canary
    from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer

__all__ = ["GRPORunner", "OpenAIModelWrapper", "make_mixture"]


def make_mixture(config: Config, files: NodeFiles, emit: Emit | None = None) -> Mixture:
    """Return the configured mixture of tasks. Its workers start in the background; ``emit`` reports lost ones."""
    charter = node_charter(config, files).encode()

    def report(replaced: int, unverified: int) -> None:
        if emit is not None:
            emit(WorkersEvent(replaced=replaced, unverified=unverified))

    return Mixture(
        config.tasks,
        charter=charter,
        secret=files.secret(),
        heldout=config.eval.questions,
        partial_credit=config.game.partial_credit,
        curriculum=config.game.curriculum and config.swarm.charter is None,
        levels=charter_levels(config, files),
        groups=config.game.groups if config.swarm.charter is None else None,
        report=report,
    )


class GRPORunner:
    """One run of a node.

    ``make_tasks`` replaces the configured mixture of tasks, for experiments such as random rewards.
    ``peer_context``: the peers and the clock of a study group. None: the node plays alone.
    ``lean``: this process does nothing else, so its libraries may leave out what a node does not need.
    ``visible``: with several processes on GPUs, the one that each sees (``share_gpus``). Empty: on CPUs.
    ``device``: the device as the user named it, if torch sees it under another name (``pin_device``).
    """

    def __init__(
        self,
        config: Config,
        files: NodeFiles,
        emit: Emit,
        *,
        stop: StopFlag | None = None,
        secrets: Secrets | None = None,
        make_tasks: Callable[[Config, NodeFiles], Tasks] | None = None,
        peer_context: PeerContext | None = None,
        lean: bool = False,
        visible: Sequence[str] = (),
        device: str = "",
    ) -> None:
        self._config = config
        self._files = files
        self._emit = emit
        self._stop = StopFlag() if stop is None else stop
        self._secrets = Secrets() if secrets is None else secrets
        self._make_tasks = make_tasks or partial(make_mixture, emit=emit)
        self._needs_secret = make_tasks is None
        self._peer_context = peer_context
        self._lean, self._visible, self._device = lean, visible, device
        self.progress = NodeProgress()
        """The node's progress. Valid even after ``run`` has raised."""

    def run(self) -> NodeProgress:
        """Run to the last round. Raises ``StopRequested`` after a stop, and ``NodeError`` if the operator must act."""
        with ExitStack() as ends:
            if is_relay(self._config):
                self._relay(ends)
            else:
                self._train(ends)
        return self.progress

    def _train(self, ends: ExitStack) -> None:
        self._check_token()
        check_reports(self._config)
        compute = resolve_compute(self._config.model)
        use_threads(self._config.model, self._config.train.processes)
        swarm, journal, offload, tasks = self._open(ends)
        config = self._config
        pacing = self._pace(tasks, journal)
        if offload is not None:
            offload.wait_for_probe()  # before a model is loaded and warmed up for nothing
        if swarm is not None:
            self._emit(PhaseEvent(name="loading transformers"))
        team = self._start_team(ends, compute)
        # Imported here, because it takes seconds: errors in the node's files or of its API have been reported by now.
        with uncollected():
            if self._lean:
                without_scipy()
            from hivemind_exp.models.loading import load_tokenizer
        tokenizer = load_tokenizer(config.model, self._secrets.get("huggingface"))
        teacher = None
        if is_distilled(config) and offload is not None:
            from hivemind_exp.trainer.token_teacher import TokenTeacher

            teacher = TokenTeacher(config, offload, journal, tokenizer, self._emit)
            teacher.test()
        with uncollected():
            from hivemind_exp.runner.build_node import ModelBuilder
            from hivemind_exp.runner.choose_style import StyleChooser
            from hivemind_exp.trainer.hivemind_grpo_trainer import HivemindGRPOTrainer

        checkpoints = CheckpointStore(
            self._files.checkpoints,
            config.checkpoint.keep,
            self._emit,
            owner=node_id(self._files),
            spent=partial(saved_total, self._files),
        )
        checkpoint = checkpoints.latest()
        builder = ModelBuilder(config, self._files, self._emit, self._stop, self._secrets, compute)
        step_trainer = ends.enter_context(closing(builder.step_trainer(tokenizer, tasks, checkpoint)))
        if team is not None:
            self._lead(team, step_trainer, checkpoint)
        parameters = list(step_trainer.policy.parameters())
        self._announce(
            model=config.model.name,
            **asdict(compute) | {"device": self._device or compute.device},
            processes=config.train.processes,
            parameters=sum(p.numel() for p in parameters),
            trainable=sum(p.numel() for p in parameters if p.requires_grad),
            resumed_round=_finished_rounds(config, journal, checkpoint),
            checkpoint_round=None if checkpoint is None else checkpoint.round,
        )
        model, whole = step_trainer.generator, step_trainer.whole
        chooser = StyleChooser(
            config, self._files, self._emit, self._stop, tasks, model, tokenizer, compute.dtype, whole
        )
        chats = chooser.chats(new=checkpoint is None and journal.is_empty())
        if pacing is not None and config.game.curriculum:
            pacing.start_at(read_levels(self._files.prompt))
        exchange, peer_context = None, self._peer_context
        if swarm is not None:
            exchange = ends.enter_context(swarm.exchange(step_trainer.log_probabilities, tokenizer, tasks, chats))
            peer_context = swarm.peer_context(exchange)
        parts = NodeParts(
            config,
            self._stop,
            model,
            tokenizer,
            offload,
            exchange,
            journal,
            tasks,
            self._files,
            self._emit,
            compute.dtype,
            team,
            whole,
        )
        sources = self._sources(ends, parts)
        local = sources["local"]
        assert isinstance(local, LocalSource)
        game, schedule = open_game(
            config, tokenizer=tokenizer, tasks=tasks, journal=journal, peer_context=peer_context, chats=chats
        )
        judge = Judge(config, offload, journal, self._emit) if is_judged(config) and offload is not None else None
        HivemindGRPOTrainer(
            config=config,
            step_trainer=step_trainer,
            encode=partial(encode_completion, tokenizer),
            sources=sources,
            local=local,
            tasks=tasks,
            game=game,
            schedule=schedule,
            journal=journal,
            checkpoints=checkpoints,
            emit=self._emit,
            stop=self._stop,
            progress=self.progress,
            pusher=self._pusher(),
            exchange=exchange,
            teacher=teacher,
            style=chats.style,
            judge=judge,
            canary=self._canary(ends, config, checkpoints, step_trainer),
            conditions=Conditions.now(config, compute).text(),
        ).run(checkpoint)

    def _start_team(self, ends: ExitStack, compute: Compute) -> Team | None:
        """Start the node's other processes, which import their libraries meanwhile. None: it has no others."""
        config = self._config
        if config.train.processes == 1:
            return None
        device, dtype = compute.device, compute.dtype
        team = Team(config, self._files, self._stop, device=device, dtype=dtype, visible=self._visible)
        return ends.enter_context(closing(team))

    def _lead(self, team: Team, step_trainer: SourceGRPOTrainer, checkpoint: Checkpoint | None) -> None:
        """Have the other processes load the model, and train together with them from now on."""
        self._emit(PhaseEvent(name="loading the model in the other processes"))
        team.ask("load", checkpoint and [str(checkpoint.path), checkpoint.step, checkpoint.round])
        step_trainer.lead(team)

    def _canary(
        self, ends: ExitStack, config: Config, checkpoints: CheckpointStore, step_trainer: SourceGRPOTrainer
    ) -> Canary | None:
        if not config.eval.canary:
            return None
        from hivemind_exp.trainer.canary import Canary

        log = ends.enter_context(closing(CanaryLog(self._files.journal)))
        return Canary(config, log, self._files.quarantine, checkpoints, step_trainer, self.progress, self._emit)

    def _relay(self, ends: ExitStack) -> None:
        """Generate through an API and verify. Needs no model and no device, and takes no steps."""
        swarm, journal, offload, tasks = self._open(ends)
        self._announce(resumed_round=journal.verified_rounds() or None)
        if offload is not None:
            offload.wait_for_probe()
        game = SamplingGame(None, tasks, build_chats(configured(self._config.prompt), tasks))
        RelayLoop(
            config=self._config,
            sources=self._sources(ends, NodeParts(self._config, self._stop, offload=offload)),
            encode=encode_as_bytes,
            tasks=tasks,
            game=game,
            schedule=SequentialSchedule(game.stages),
            journal=journal,
            emit=self._emit,
            stop=self._stop,
            progress=self.progress,
            publish=None if swarm is None else swarm.publisher(),
        ).run()

    def _pace(self, tasks: Tasks, journal: Journal) -> JournalPacing | None:
        """Let the journal choose the questions of ``tasks``, and return what chooses them.

        In a swarm, the nodes must all make the same questions, except for what its charter lets a curriculum choose.
        """
        game = self._config.game
        if not isinstance(tasks, Mixture):
            return None
        if self._config.swarm.charter is not None:
            if not game.curriculum:
                return None
            game = game.model_copy(update={"rest": 0})
        lag = 0 if other_source_name(self._config) is None else rounds_ahead(self._config)
        tasks.pacing = pacing = JournalPacing(game, journal, lag, self._emit)
        return pacing

    def _open(self, ends: ExitStack) -> tuple[SwarmSession | None, Journal, OffloadClient | None, Tasks]:
        """Open what every node needs. The node takes over the swarm's tasks and game."""
        swarm = None
        if self._config.swarm.charter is not None:
            from hivemind_exp.runner.build_swarm import open_swarm

            swarm = ends.enter_context(open_swarm(self._config, self._files, self._emit, self._stop))
            self._config = swarm.config
        config = self._config
        if not is_relay(config):
            check_warmup(config)
        check_judge(config)
        charter, node = node_charter(config, self._files), node_id(self._files)
        journal = ends.enter_context(closing(Journal(self._files.journal, charter, node=node)))
        asked = config
        if not uses_api(config):  # no API, or one that its source asks itself
            asked = config.model_copy(update={"offload": config.offload.model_copy(update={"provider": OFF})})
        offload = open_offload(asked, self._files, self._secrets, self._emit, self._stop)
        if offload is not None:
            ends.callback(offload.close)
        lost = self._needs_secret and not self._files.secret_file.exists()
        if lost and journal.evaluations():
            message = (
                "the node's file named secret is missing, so a new one is created. The held-out questions are new: "
                "accuracy cannot be compared with that of earlier rounds"
            )
            self._emit(WarningEvent(code="new_secret", message=message))
        tasks = ends.enter_context(closing(self._make_tasks(config, self._files)))
        if swarm is not None:
            swarm.check(tasks)
        if not lost and isinstance(tasks, Mixture):
            check_held_out(tasks, config.eval.questions, journal, self._files.journal, self._emit)
        check_conversations(config, tasks.conversing())
        if isinstance(tasks, Mixture) and (still_open := tasks.still_open()):
            message = (
                f"the sandbox of verifiers is weak on this machine: {'; '.join(still_open)}. If you do not trust all "
                "peers, run this node as a user without secrets, or in a container (swarmctl doctor machine.sandbox)"
            )
            self._emit(WarningEvent(code="weak_sandbox", message=message))
        return swarm, journal, offload, tasks

    def _sources(self, ends: ExitStack, parts: NodeParts) -> dict[str, Source]:
        sources = build_sources(parts)
        for source in sources.values():
            ends.callback(source.close)
        return sources

    def _announce(self, **about_model: Any) -> None:
        config = self._config
        only_api = is_offloaded(config) and config.offload.share == 1
        self._emit(
            StartEvent(
                node=config.node.name,
                tasks=list(map(title, config.tasks)),
                seed=config.node.seed,
                **config.game.model_dump(include={"rounds", "groups", "group_size"}),
                completion_tokens=None if only_api else config.generation.max_completion_tokens,
                **about_model,
            )
        )

    def _check_token(self) -> None:
        """Raise ``KeyProblem`` if the model is to be pushed and there is no token. Before a model is loaded."""
        if self._config.hub.repo and self._secrets.get("huggingface") is None:
            raise KeyProblem(
                "hub.repo is set, but there is no Hugging Face token", next="swarmctl keys set huggingface"
            )

    def _pusher(self) -> HubPusher | None:
        token = self._secrets.get("huggingface")
        if not self._config.hub.repo or token is None:
            return None
        from hivemind_exp.hub.pusher import HubPusher, Outbox

        return HubPusher(self._config.hub, Outbox(self._files.hub), token, self._emit)


def _finished_rounds(config: Config, journal: Journal, checkpoint: Checkpoint | None) -> int | None:
    """Return how many rounds have a step of their last stage; None before the first step."""
    last = journal.stage_run(journal.steps_taken() - 1)  # a stop may come before a recorded step is taken
    if last is None:  # also for a node from before stages were recorded
        return None if checkpoint is None else checkpoint.round
    stage_run, finished = last
    return finished + (stage_run.stage == LAST_STAGE[config.game.kind])
