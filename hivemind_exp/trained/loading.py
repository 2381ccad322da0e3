"""Load what a node trained, or what it started from. Only reads the node's directory, so the node may be running."""

import gc
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hivemind_exp.config import Config
from hivemind_exp.errors import FileProblem, ModelError
from hivemind_exp.game.prompt_style import ChatBuilder, PromptStyle, build_chats
from hivemind_exp.models.device import resolve_compute, use_threads
from hivemind_exp.models.loading import load_model, load_tokenizer, load_trained, with_adapter
from hivemind_exp.models.model_location import TINY
from hivemind_exp.models.quantized import check_quantized
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.resuming import resume_command
from hivemind_exp.runner.grpo_runner import make_mixture
from hivemind_exp.secrets import Secrets
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.swarm.charter_check import applied, read_charter
from hivemind_exp.tasks.base import Tasks
from hivemind_exp.tasks.mixture import Mixture
from hivemind_exp.trained.link import Link
from hivemind_exp.trainer.checkpoints import MODEL, Checkpoint


@dataclass(frozen=True, slots=True)
class Job:
    """What to do with which model."""

    config: Config
    files: NodeFiles
    checkpoint: Checkpoint | None
    """None: the model before training."""
    order: Mapping[str, Any]
    """What only this kind of job needs."""
    link: Link
    secrets: Secrets = field(default_factory=Secrets)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that answers."""

    source: LocalSource
    tokenizer: PreTrainedTokenizerBase
    model: PreTrainedModel

    @property
    def context(self) -> int:
        """The number of tokens that a prompt and its completion may have together."""
        shape = self.model.config.get_text_config()
        return int(getattr(shape, "max_position_embeddings", None) or 2**20)


def with_charter(config: Config, files: NodeFiles) -> Config:
    """Return a node's configuration with the tasks and game of its swarm's charter, from its directory alone."""
    if config.swarm.charter is None:
        return config
    charter = read_charter(files, config.swarm.charter)
    return config if charter is None else applied(charter, config)


@contextmanager
def loaded_model(job: Job, tasks: Tasks | None = None, *, trained: bool = True) -> Iterator[LoadedModel]:
    """Load the job's model, or the one before training. Free its memory at the end of the block.

    ``tasks``: needed for conversations with environments. Raises ``ModelError`` and ``DeviceError``.
    """
    config, checkpoint = job.config, job.checkpoint if trained else None
    job.link.phase(f"loading {config.model.name}{'' if trained else ' (before training)'}")
    compute = resolve_compute(config.model)
    use_threads(config.model)
    tokenizer = load_tokenizer(config.model, job.secrets.get("huggingface"))
    check_quantized(config, compute.device)
    model = load(job, checkpoint, tokenizer, dtype=compute.dtype, device=compute.device).eval()
    if not config.model.load_in_4bit:
        model = model.to(device=compute.device, dtype=getattr(torch, compute.dtype))
    try:
        yield LoadedModel(
            LocalSource(
                model, tokenizer, config.generation, job.link.stop, config.node.seed, job.link.hear, _tasks=tasks
            ),
            tokenizer,
            model,
        )
    finally:
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def load(
    job: Job, checkpoint: Checkpoint | None, tokenizer: PreTrainedTokenizerBase, *, dtype: str, device: str = "cpu"
) -> PreTrainedModel:
    """Return the weights of a checkpoint; None: of the model before training. Raises ``ModelError``.

    ``device``: where weights in 4 bits are loaded. Others are loaded on the CPU.
    """
    config = job.config
    if checkpoint is not None and config.model.lora is None:
        return load_trained(config.model, str(checkpoint.path / MODEL), tokenizer, dtype=dtype)
    named = config.model
    if named.name == TINY and config.warmup.steps:
        if not job.files.base.exists():
            raise ModelError(f"node {config.node.name} has not finished its warm-up yet", next="swarmctl status")
        named = named.model_copy(update={"name": str(job.files.base)})
    token = job.secrets.get("huggingface")
    base = load_model(named, tokenizer, dtype=dtype, seed=config.node.seed, token=token, device=device)
    if checkpoint is None:
        return base
    adapted: PreTrainedModel = with_adapter(base, str(checkpoint.path / MODEL), trainable=False)
    return adapted


@contextmanager
def own_chats(job: Job) -> Iterator[ChatBuilder]:
    """Open what builds chats in the job's style, with examples from the node's tasks if the style needs them."""
    style = style_of(job)
    if style.form != "plain" and not style.examples:
        yield ChatBuilder(style)
        return
    with own_tasks(job.config, job.files) as tasks:
        yield build_chats(style, tasks)


def style_of(job: Job) -> PromptStyle:
    """Return the way of asking that the command chose."""
    return PromptStyle(**job.order["style"])


@contextmanager
def own_tasks(config: Config, files: NodeFiles) -> Iterator[Mixture]:
    """Open a node's tasks, for its held-out questions and their verifiers.

    Raises ``FileProblem`` if the file that determines those questions is missing: it must not be created here.
    """
    if not files.secret_file.exists():
        raise FileProblem(
            f"the file {files.secret_file.name} of node {config.node.name} is missing, so its held-out questions are "
            "unknown",
            next=resume_command(files),
        )
    with closing(make_mixture(config, files)) as tasks:
        yield tasks
