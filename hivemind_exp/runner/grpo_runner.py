"""Builds a node from its configuration, runs it, tears it down."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hivemind_exp.config import Config, charter_id
from hivemind_exp.errors import ConfigurationError, KeyProblem
from hivemind_exp.events import Emit, PhaseEvent, StartEvent
from hivemind_exp.game.sampling.prompts import build_prompts
from hivemind_exp.hub.outbox import Outbox
from hivemind_exp.hub.pusher import HubPusher
from hivemind_exp.journal.journal import Journal
from hivemind_exp.models.device import Compute, resolve_compute
from hivemind_exp.models.loading import TINY, adapter_config, load_model, load_tokenizer
from hivemind_exp.models.memory import estimate
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.build import open_offload
from hivemind_exp.offload.openai_wrapper import OpenAIModelWrapper
from hivemind_exp.offload.settings import is_relay
from hivemind_exp.runner.build_game import PeerContext, open_game
from hivemind_exp.runner.report_backends import check_reports
from hivemind_exp.secrets import Secrets, use_wandb_key
from hivemind_exp.seeds import derive_seed
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.stop import StopFlag
from hivemind_exp.tasks.base import Question, Tasks
from hivemind_exp.tasks.mixture import Mixture
from hivemind_exp.trainer.checkpoint_state import MODEL, load_state
from hivemind_exp.trainer.checkpoints import Checkpoint, CheckpointStore
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer
from hivemind_exp.trainer.hivemind_grpo_trainer import HivemindGRPOTrainer
from hivemind_exp.trainer.progress import NodeProgress
from hivemind_exp.trainer.relay_loop import RelayLoop

if TYPE_CHECKING:
    from hivemind_exp.runner.build_swarm import SwarmSession

__all__ = ["GRPORunner", "OpenAIModelWrapper", "describe", "make_mixture"]

_WARMUP_EXAMPLES = 8192
"""Questions that the warm-up draws its demonstrations from."""


def make_mixture(config: Config, files: NodeFiles) -> Mixture:
    """Return the mixture of tasks that the configuration names; its workers start in the background."""
    charter = charter_id(config).encode()
    return Mixture(
        config.tasks,
        charter=charter,
        # Nobody to hide from in a node that starts afresh each time; so the demo's questions follow from its seed.
        secret=charter if config.node.fresh else files.secret(),
        heldout=config.eval.questions,
        partial_credit=config.game.partial_credit,
        stride=config.game.groups,
    )


class GRPORunner:
    """One run of a node.

    ``make_tasks`` replaces the mixture that the configuration names: for experiments such as rewards that mean nothing.
    ``peer_context``: with whom a study group is played; unset: alone.
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
    ) -> None:
        self._config = config
        self._files = files
        self._emit = emit
        self._stop = StopFlag() if stop is None else stop
        self._secrets = Secrets() if secrets is None else secrets
        self._make_tasks = make_tasks or make_mixture
        self._peer_context = peer_context
        self.progress = NodeProgress()
        """How far the node is; up to date also after ``run`` has raised."""

    def run(self) -> NodeProgress:
        """Run to the last round. Raises ``StopRequested`` after a stop and ``NodeError`` for what people can mend."""
        if is_relay(self._config):
            return self._relay()
        check_reports(self._config)
        compute = resolve_compute(self._config.model)
        _use_threads(self._config)
        with ExitStack() as ends:
            swarm = self._join(ends)
            config = self._config
            _check_warmup(config)
            journal = ends.enter_context(closing(Journal(self._files.journal, charter_id(config))))
            offload = open_offload(config, self._files, self._secrets, self._emit, self._stop)
            if offload is not None:
                ends.enter_context(closing(offload))
            tasks = ends.enter_context(closing(self._make_tasks(config, self._files)))
            if swarm is not None:
                swarm.check(tasks)
            tokenizer = load_tokenizer(config.model, self._token)
            checkpoints = CheckpointStore(self._files.checkpoints, config.checkpoint.keep, self._emit)
            checkpoint = checkpoints.latest()
            step_trainer = ends.enter_context(closing(self._step_trainer(tokenizer, tasks, compute, checkpoint)))
            self._announce(step_trainer, compute, checkpoint)
            if offload is not None:
                offload.wait_for_probe()
            source = LocalSource(step_trainer.policy, tokenizer, config.generation, self._stop)
            exchange, peer_context = None, self._peer_context
            if swarm is not None:
                exchange = ends.enter_context(swarm.exchange(step_trainer, tokenizer, tasks))
                peer_context = swarm.peer_context(exchange)
            game, schedule = open_game(
                config, tokenizer=tokenizer, tasks=tasks, journal=journal, peer_context=peer_context
            )
            HivemindGRPOTrainer(
                config,
                step_trainer=step_trainer,
                tokenizer=tokenizer,
                source=source,
                evaluator=source,
                offload=offload,
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
            ).run(checkpoint)
        return self.progress

    def _relay(self) -> NodeProgress:
        """Generate through an API and verify: without a model, a device or a step."""
        with ExitStack() as ends:
            swarm = self._join(ends)
            config = self._config
            journal = ends.enter_context(closing(Journal(self._files.journal, charter_id(config))))
            offload = open_offload(config, self._files, self._secrets, self._emit, self._stop)
            assert offload is not None
            ends.enter_context(closing(offload))
            tasks = ends.enter_context(closing(self._make_tasks(config, self._files)))
            if swarm is not None:
                swarm.check(tasks)
            self._emit(StartEvent(**self._facts(), resumed_round=journal.verified_rounds() or None))
            offload.wait_for_probe()
            RelayLoop(
                config,
                offload=offload,
                tasks=tasks,
                journal=journal,
                emit=self._emit,
                stop=self._stop,
                progress=self.progress,
                publish=None if swarm is None else swarm.publisher(),
            ).run()
        return self.progress

    def _join(self, ends: ExitStack) -> SwarmSession | None:
        """Join the swarm, whose tasks and game become the node's; None for a node that plays alone."""
        if self._config.swarm.charter is None:
            return None
        from hivemind_exp.runner.build_swarm import open_swarm

        swarm = ends.enter_context(open_swarm(self._config, self._files, self._emit))
        self._config = swarm.config
        return swarm

    def _facts(self) -> dict[str, Any]:
        """Return what the event start tells of every node."""
        config = self._config
        return {
            "node": config.node.name,
            "tasks": [task.name for task in config.tasks],
            "seed": config.node.seed,
            "rounds": config.game.rounds,
            "groups": config.game.groups,
            "group_size": config.game.group_size,
        }

    @property
    def _token(self) -> str | None:
        """The hub's token."""
        return self._secrets.get("huggingface")

    def _pusher(self) -> HubPusher | None:
        if not self._config.hub.repo:
            return None
        if self._token is None:
            raise KeyProblem("hub.repo is set, and there is no token of the hub", next="swarmctl keys set huggingface")
        return HubPusher(self._config.hub, Outbox(self._files.hub), self._token, self._emit)

    def _step_trainer(
        self, tokenizer: PreTrainedTokenizerBase, tasks: Tasks, compute: Compute, checkpoint: Checkpoint | None
    ) -> SourceGRPOTrainer:
        config = self._config
        self._emit(PhaseEvent(name=f"loading {config.model.name}"))
        base = self._base_model(tokenizer, tasks, compute)
        reference = None
        if config.train.beta > 0 and config.model.lora is None:
            reference = base if checkpoint is not None else self._base_model(tokenizer, tasks, compute)
        model, peft_config = base, adapter_config(config.model.lora)
        if "wandb" in config.report.to:
            use_wandb_key(self._secrets)
        if checkpoint is not None:
            model, peft_config = self._trained_model(base, tokenizer, compute, checkpoint), None
        step_trainer = SourceGRPOTrainer(
            model,
            tokenizer,
            config,
            self._files.root,
            device=compute.device,
            dtype=compute.dtype,
            reference=reference,
            peft_config=peft_config,
        )
        if checkpoint is not None:
            load_state(step_trainer, checkpoint.path)
        return step_trainer

    def _base_model(self, tokenizer: PreTrainedTokenizerBase, tasks: Tasks, compute: Compute) -> PreTrainedModel:
        """Return the model before the first step: from the hub or a directory, or built, warmed up and kept."""
        config = self._config
        if config.model.name != TINY or config.warmup.steps == 0:
            return load_model(config.model, tokenizer, dtype=compute.dtype, seed=config.node.seed, token=self._token)
        kept = self._files.root / "base"
        if not kept.exists():
            self._warm_up(tokenizer, tasks, kept)
        return load_model(config.model.model_copy(update={"name": str(kept)}), tokenizer, dtype="float32", seed=0)

    def _warm_up(self, tokenizer: PreTrainedTokenizerBase, tasks: Tasks, kept: Path) -> None:
        from hivemind_exp.models.tiny_warmup import warm_up

        config = self._config
        model = load_model(config.model, tokenizer, dtype="float32", seed=config.node.seed)
        self._emit(PhaseEvent(name="making demonstrations"))
        questions: list[Question] = tasks.questions("train", -1, _WARMUP_EXAMPLES)
        warm_up(
            model,
            tokenizer,
            build_prompts(questions, tokenizer),
            config.warmup,
            seed=derive_seed(config.node.seed, "warmup"),
            progress=lambda done, total: self._emit(PhaseEvent(name="warming up", done=done, total=total)),
            should_stop=self._stop.is_set,
        )
        self._stop.check()
        partial = kept.with_name(".partial-base")
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(partial)
        partial.rename(kept)

    def _trained_model(
        self, base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, compute: Compute, checkpoint: Checkpoint
    ) -> PreTrainedModel:
        directory = str(checkpoint.path / MODEL)
        if self._config.model.lora is None:
            trained = self._config.model.model_copy(update={"name": directory})
            return load_model(trained, tokenizer, dtype=compute.dtype, seed=0)
        import peft

        return peft.PeftModel.from_pretrained(base, directory, is_trainable=True)

    def _announce(self, step_trainer: SourceGRPOTrainer, compute: Compute, checkpoint: Checkpoint | None) -> None:
        parameters = list(step_trainer.policy.parameters())
        self._emit(
            StartEvent(
                **self._facts(),
                model=self._config.model.name,
                device=compute.device,
                dtype=compute.dtype,
                accelerator=compute.accelerator,
                parameters=sum(p.numel() for p in parameters),
                trainable=sum(p.numel() for p in parameters if p.requires_grad),
                resumed_round=None if checkpoint is None else checkpoint.round,
            )
        )


def _check_warmup(config: Config) -> None:
    others = [task.name for task in config.tasks if task.name != "spell_backward"]
    if config.warmup.steps and others:
        raise ConfigurationError(
            f"the warm-up demonstrates spell_backward alone, and the tasks are {', '.join(others)}; without it the "
            'model "tiny" knows nothing, so take a real one, or spell_backward',
            next="swarmctl run --task spell_backward",
        )


def _use_threads(config: Config) -> None:
    """Set torch's CPU threads: a tiny model is 5 to 20 times slower on many threads than on one."""
    threads = config.model.threads or (1 if config.model.name == TINY else os.cpu_count() or 1)
    torch.set_num_threads(threads)


def describe(config: Config) -> dict[str, Any]:
    """Return what a dry run says of this machine, model and tasks. Touches nothing. Raises ``NodeError``."""
    from hivemind_exp.models.loading import locate
    from hivemind_exp.tasks.registry import check_tasks

    _check_warmup(config)
    check_reports(config)
    compute = resolve_compute(config.model)
    where = locate(config.model)
    half = compute.dtype != "float32"
    check_tasks(config.tasks)
    return {
        "device": compute.device,
        "dtype": compute.dtype,
        "accelerator": compute.accelerator,
        "model": {"name": config.model.name, "where": where.place, "parameters": where.parameters},
        "tasks": [task.name for task in config.tasks],
        "memory_bytes": None if where.shape is None else estimate(config, where.shape, half=half).peak,
    }
