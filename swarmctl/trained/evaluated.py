"""What can be evaluated: a node's model, any other model, or a model behind an API."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hivemind_exp.config import Config, NodeConfig, TaskConfig
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.game.prompt_style import configured
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.settings import first_endpoint, is_offloaded, split
from hivemind_exp.progress_settings import EvalConfig
from hivemind_exp.providers import PROVIDERS
from hivemind_exp.trainer.checkpoints import SEAL
from swarmctl.errors import UsageError
from swarmctl.nodes.inputs import digest_of
from swarmctl.nodes.lookup import node_names
from swarmctl.paths import evals_directory
from swarmctl.settings.command_line import resolved_options
from swarmctl.settings.options import FLAGS, RunOptions, tasks_text
from swarmctl.settings.resolve import Resolved
from swarmctl.storage.hub_cache import local_directory
from swarmctl.storage.json_file import read_json
from swarmctl.terminal.suggest import nearest
from swarmctl.trained.target import ModelOptions, TrainedNode, model_keys, trained_node

BASE = "base"
"""In ``--against``: the node's model before training."""


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """The command line of ``eval``."""

    target: str
    against: str | None
    tasks: tuple[str, ...]
    questions: int
    k: int
    samples: int
    model: ModelOptions
    profile: str | None
    max_usd: str | None
    examples: int
    as_json: bool
    yes: bool
    no_input: bool

    @property
    def greedy(self) -> bool:
        """Whether a model on this machine decodes greedily, as in a node's own evaluations."""
        return self.samples == 1 and not self.model.temperature


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A model to evaluate."""

    name: str
    """For people."""
    model: TrainedNode
    node: str | None
    """The node that trained it."""
    identity: dict[str, Any]
    """What its answers depend on, besides the questions and the settings of generation."""
    resolved: Resolved | None = None
    """The settings of a model that no node trained."""


def evaluated(options: EvalOptions) -> tuple[list[Evaluated], TrainedNode | None]:
    """Return the models to evaluate, and the node whose held-out questions are asked; None: the tasks' own.

    Raises ``NodeError``.
    """
    if options.samples < options.k:
        raise UsageError(f"-k {options.k} needs --samples {options.k} or more", next="swarmctl eval --help")
    names = [options.target] if options.against is None else [options.target, options.against]
    nodes = {name for name in (_node_in(options, name) for name in names) if name is not None}
    first = next((name for name in (_node_in(options, name) for name in names) if name is not None), None)
    asked = None
    if not options.tasks:
        if first is None:
            guess = nearest(options.target, node_names())
            hint = f" (did you mean {guess}?)" if guess else ""
            raise UsageError(
                f"no questions to ask: {options.target} is not a node on this machine{hint}. Choose a task with "
                "--task, or compare with a node: --against NODE",
                next="swarmctl eval --help",
            )
        asked = trained_node(ModelOptions(first, base=True))
    if options.samples > 1 and options.model.temperature == 0:
        raise UsageError(
            "--temperature 0 gives the same answer each time; use --samples 1", next="swarmctl eval --help"
        )
    known = nodes | set(node_names())
    found = [_find(options, name, asked, known) for name in names]
    if options.max_usd is not None and not any(each.node is None and is_offloaded(each.model.config) for each in found):
        raise UsageError("--max-usd limits what an API's model costs, but no API is asked", next="swarmctl eval --help")
    return found, asked


def _node_in(options: EvalOptions, name: str) -> str | None:
    name = options.target if name == BASE and options.against == BASE else name
    return name if name in node_names() else None


def _find(options: EvalOptions, name: str, asked: TrainedNode | None, nodes: set[str]) -> Evaluated:
    base = options.model.base
    if name == BASE and options.against == BASE:
        name, base = options.target, True
        if name not in nodes:
            raise UsageError(f"--against base needs a node, but {name} is not a node", next="swarmctl status")
    if name in nodes:
        return _of_node(options, name, asked, base=base)
    return _of_model(options, name, asked, nodes)


def _of_node(options: EvalOptions, name: str, asked: TrainedNode | None, *, base: bool) -> Evaluated:
    wanted = replace(options.model, node=name, base=base)
    if name != options.target or base:
        wanted = replace(wanted, checkpoint=None)
    node = trained_node(wanted)
    if asked is None:
        node = replace(node, config=_with_tasks(node.config, options, None))
    made = (read_json(node.files.identity) or {}).get("created")
    seal = None if node.checkpoint is None else _hash((node.checkpoint.path / SEAL).read_text())
    identity = {"node": name, "created": made, "checkpoint": seal, "model": node.config.model.model_dump(mode="json")}
    return Evaluated(f"{name} {node.when}", node, name, identity)


def _of_model(options: EvalOptions, name: str, asked: TrainedNode | None, nodes: set[str]) -> Evaluated:
    provider, model = split(name)
    flags: dict[str, str | None] = {"--max-usd": options.max_usd, "--device": options.model.device}
    resolved = resolved_options(RunOptions(profile=options.profile))
    if provider in resolved.config.providers or getattr(PROVIDERS.get(provider), "chat", None) is not None:
        flags["--offload"] = provider
    elif "/" in name or Path(name).is_dir():
        flags["--model"] = name
    else:
        guess = nearest(name, [*nodes, BASE, *PROVIDERS, *resolved.config.providers])
        hint = f"; did you mean {guess}?" if guess else ""
        raise ConfigurationError(
            f"unknown node, provider or model {name!r}{hint} (a model is a directory or OWNER/NAME)",
            next="swarmctl status",
        )
    given = [(flag, FLAGS[flag], value) for flag, value in flags.items() if value is not None]
    if "--offload" in flags:
        given.append(("--offload", "offload.model", model or ""))
    resolved = resolved_options(RunOptions(profile=options.profile, flags=tuple(given)))
    config = _with_tasks(resolved.config, options, asked)
    # Only what a model's answers depend on.
    kept = {name: getattr(config, name) for name in ("model", "tasks", "generation", "offload", "providers", "prompt")}
    config = Config(**kept, node=NodeConfig(name="eval"), eval=EvalConfig(questions=options.questions))
    style = configured(config.prompt, config.model.thinking) if asked is None else asked.style
    if is_offloaded(config):
        limit = options.model.max_tokens or config.offload.max_tokens or max(1024, _longest(config))
        api = {"kind": "relay", "share": 1.0, "when": "always", "rounds": "*", "fallback": [], "on_limit": "stop"}
        api["teach"] = "answers"
        offload = config.offload.model_copy(update=api | {"max_tokens": limit, "stages": ["answer"], "batch": False})
        config = config.model_copy(update={"offload": offload})
        endpoint = first_endpoint(config)
        limits = offload.model_dump(mode="json", include={"max_tokens", "reasoning_effort", "reasoning_tokens"})
        identity: dict[str, Any] = {"provider": endpoint.full_name, "base_url": endpoint.base_url, "offload": limits}
        return Evaluated(endpoint.label, TrainedNode(_no_files(), config, None, {}, style), None, identity, resolved)
    config = config.model_copy(update={"model": config.model.model_copy(update={"lora": None})})
    place = local_directory(config.model.name)
    files = None if place is None else digest_of(place)
    made: dict[str, Any] = {"model": config.model.model_dump(mode="json"), "files": files}
    return Evaluated(name, TrainedNode(_no_files(), config, None, model_keys(config), style), None, made, resolved)


def _longest(config: Config) -> int:
    return config.generation.max_completion_tokens


def _no_files() -> NodeFiles:
    """Return the files of no node: the model was not trained here."""
    return NodeFiles(evals_directory() / "none")


def _with_tasks(config: Config, options: EvalOptions, asked: TrainedNode | None) -> Config:
    """Return the configuration with the tasks and the generation that are evaluated."""
    if asked is not None:
        tasks, generation = asked.config.tasks, asked.config.generation
    else:
        task = tasks_text(options.tasks)
        resolved = resolved_options(RunOptions(profile=options.profile, flags=(("--task", "tasks", task or ""),)))
        tasks, generation = resolved.config.tasks, config.generation
    own = {"max_completion_tokens": options.model.max_tokens, "temperature": options.model.temperature or None}
    generation = generation.model_copy(update={key: value for key, value in own.items() if value is not None})
    return config.model_copy(update={"tasks": tasks, "generation": generation})


def results_of(model: Evaluated, asked: TrainedNode | None, options: EvalOptions) -> tuple[NodeFiles, dict[str, Any]]:
    """Return the directory for a model's answers, and a description of what they depend on, which names it."""
    config = model.model.config
    generation = config.generation.model_dump(mode="json", include={"max_completion_tokens", "temperature"})
    tasks: list[TaskConfig] = config.tasks
    about: dict[str, Any] = {
        "model": model.identity,
        "questions": {"node": asked.files.root.name, "created": (read_json(asked.files.identity) or {}).get("created")}
        if asked is not None
        else {"tasks": [task.model_dump(mode="json", exclude=_unset(task)) for task in tasks]},
        "style": str(model.model.style),
        "generation": generation | {"greedy": options.greedy and not is_offloaded(config)},
    }
    return NodeFiles(evals_directory() / _hash(json.dumps(about, sort_keys=True))[:16]), about


def _unset(task: TaskConfig) -> set[str]:
    """Return the settings that earlier versions lack, so that their answers are found again."""
    return {"max_turns"} if task.max_turns is None else set()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
