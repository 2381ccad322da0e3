"""Find the node whose model is used, with the settings and keys that loading it needs."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hivemind_exp.config import Config, ModelConfig, OffloadConfig
from hivemind_exp.errors import CheckpointError, ConfigurationError
from hivemind_exp.game.node_style import node_style
from hivemind_exp.game.prompt_style import PromptStyle
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.settings import is_relay
from hivemind_exp.trainer.checkpoints import Checkpoint
from swarmctl.errors import UsageError
from swarmctl.keys.finder import KeyFinder
from swarmctl.keys.for_run import needed
from swarmctl.nodes.checkpoint import checkpoint_of
from swarmctl.nodes.lookup import readable
from swarmctl.settings.allowed import allowed, shown
from swarmctl.settings.command_line import last_config
from swarmctl.storage import node_lock as locks
from swarmctl.terminal.prompter import Prompter


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which of a node's models, and how it generates. None: as in the node's latest run."""

    node: str
    checkpoint: int | None = None
    """The step; None: the newest."""
    base: bool = False
    """The model before training, instead of a checkpoint."""
    temperature: float | None = None
    """0: greedy."""
    max_tokens: int | None = None
    device: str | None = None
    command: str = "sample"
    """The command that the user typed, for error messages."""
    directory: Path | None = None
    """Its argument after the node."""


@dataclass(frozen=True, slots=True)
class TrainedNode:
    """A node with a model."""

    files: NodeFiles
    config: Config
    """Of its latest run, without its API, and with the options of this command."""
    checkpoint: Checkpoint | None
    """None: the model before training."""
    secrets: Mapping[str, str]
    style: PromptStyle
    """How questions are asked."""

    @property
    def when(self) -> str:
        """Which model it is, in words."""
        return "before training" if self.checkpoint is None else f"after round {self.checkpoint.round}"

    def at(self) -> dict[str, Any] | None:
        """Return the checkpoint for JSON."""
        at = self.checkpoint
        return None if at is None else {"step": at.step, "round": at.round}


def trained_node(options: ModelOptions) -> TrainedNode:
    """Return the node to use.

    Raises ConfigurationError if it does not exist or trains no model, CheckpointError if it lacks the checkpoint.
    """
    name = options.node
    files = readable(name)
    config = last_config(files)
    if is_relay(config):
        raise ConfigurationError(f"node {name} is a relay: it trains no model", next="swarmctl status")
    newest = ["swarmctl", options.command, name, *([] if options.directory is None else [str(options.directory)])]
    checkpoint = None if options.base else checkpoint_of(files, options.checkpoint, newest)
    if checkpoint is None and not options.base:
        when = f"every {config.checkpoint.every} rounds (checkpoint.every) and when it stops"
        running = locks.is_held(files.lock)
        following = ["swarmctl", "status", name] if running else ["swarmctl", "run", "--node", name]
        raise CheckpointError(f"node {name} has no checkpoint yet; it saves one {when}", next=shlex.join(following))
    model = config.model if options.device is None else _on(config.model, options.device)
    changes = {"max_completion_tokens": options.max_tokens, "temperature": options.temperature or None}
    set_ = {key: value for key, value in changes.items() if value is not None}
    generation = config.generation.model_copy(update=set_)
    style = node_style(config, files)
    model = model.model_copy(update={"thinking": style.thinking})
    # The model answers in one process, on any device.
    train = config.train.model_copy(update={"processes": 1, "shard": False})
    tables = {"model": model, "train": train, "generation": generation, "offload": OffloadConfig()}
    config = config.model_copy(update=tables)
    return TrainedNode(files, config, checkpoint, model_keys(config), style)


def _on(model: ModelConfig, device: str) -> ModelConfig:
    try:
        return ModelConfig.model_validate({**model.model_dump(), "device": device})
    except ValueError as error:
        message = f"invalid --device: {shown(device)}. Use {allowed(('model', 'device'))}"
        raise UsageError(message, next="swarmctl doctor machine") from error


def model_keys(config: Config) -> dict[str, str]:
    """Return the hub token if the model may have to be fetched with it. Raises KeyProblem if it cannot be read."""
    finder = KeyFinder(Prompter(silent=True), os.environ)
    hubless = config.model_copy(update={"hub": type(config.hub)(), "report": type(config.report)()})
    found = {name: finder.find(name) for name in needed(hubless, os.environ)}
    return {name: key.value for name, key in found.items() if key is not None and not key.rival(os.environ)}
