"""Where a model is stored. Imports neither torch nor transformers, which take seconds."""

import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hivemind_exp.config import ModelConfig
from hivemind_exp.errors import ModelError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.model_names import BUILT_IN
from hivemind_exp.models import memory, smollm2
from hivemind_exp.models.memory import Shape

TINY = "tiny"
OTHER_MODEL = "swarmctl run --model Qwen/Qwen2.5-0.5B-Instruct"
Place = Literal["built locally", "local directory", "cached", "will be downloaded"]


@dataclass(frozen=True, slots=True)
class ModelLocation:
    """Where a model is stored, found without loading it."""

    place: Place
    directory: Path | None = None
    """The directory with its files; None if it is built, or not on this machine."""
    parameters: int | None = None
    """None if even its configuration is not on this machine."""
    shape: Shape | None = None
    """None also for model families whose memory cannot be derived from their configuration."""


def locate_model(config: ModelConfig) -> ModelLocation:
    """Find a model on this machine, without the network. Raises ``ModelError`` for a directory without a model."""
    if config.name == TINY:
        shape = Shape.read(memory.TINY)
        assert shape is not None
        return ModelLocation("built locally", None, shape.parameters, shape)
    directory = local_directory(config)
    if directory is not None:
        return ModelLocation("local directory", directory)
    cached = cached_config(config)
    if cached is not None:
        return ModelLocation("cached", Path(cached).parent)
    shape = Shape.read(smollm2.SHAPE) if config.name == smollm2.NAME else None
    return ModelLocation("will be downloaded", None, shape.parameters if shape else None, shape)


def cached_config(config: ModelConfig) -> str | None:
    """Return the path of config.json in the hub's cache; None if it is not there. Raises ``ModelError``."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if config.name == smollm2.NAME and (stored := smollm2.stored(os.environ)) is not None:
        return str(stored / "config.json")
    name, file = (smollm2.HUB_ID, "model.safetensors") if config.name == smollm2.NAME else (config.name, "config.json")
    try:
        found = try_to_load_from_cache(name, file, revision=config.revision)
    except HFValidationError as error:
        raise no_such_model(config) from error
    return found if isinstance(found, str) else None


def local_directory(config: ModelConfig) -> Path | None:
    """Return the directory that the name refers to; None for a hub id. Raises ``ModelError`` if it has no model."""
    if config.name in BUILT_IN:
        return None
    path = Path(config.name).expanduser()
    means_path = config.name.startswith((".", "/", "~")) or config.name.count("/") > 1
    if path.is_dir():
        if not (path / "config.json").exists():
            what, command = without_config(path)
            raise ModelError(f"no model in {path}: {what}", next=command or _listing(path))
        return path
    if means_path:
        raise ModelError(f"cannot load a model from {path}: no such directory", next=_listing(path))
    return None


def without_config(path: Path) -> tuple[str, str | None]:
    """Return what a directory without ``config.json`` has instead, and the command that leads on, if one does."""
    if (path / "adapter_config.json").is_file():
        base = _base_of(path / "adapter_config.json")
        named = foreign(base) if base else "another model"
        command = f"swarmctl run --model {shlex.quote(base)}" if base and foreign(base) == base else OTHER_MODEL
        return f"it has only an adapter for {named}. Use that model, or one with the adapter merged into it", command
    if any(path.glob("*.gguf")):
        return "it has only GGUF weights, which cannot be trained. Use the model they were made from", OTHER_MODEL
    return "config.json is missing", None


def _base_of(file: Path) -> str | None:
    """Return the base model that an adapter names."""
    try:
        base = json.loads(file.read_bytes())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return base if isinstance(base, str) and base else None


def _listing(path: Path) -> str:
    """Return the command that lists a path's directory, or its nearest parent that exists."""
    near = next(place for place in (path, *path.parents) if place.is_dir())
    return f"ls {shlex.quote(str(near))}"


def no_such_model(config: ModelConfig) -> ModelError:
    """Return the error for a name that is neither a directory nor a hub id."""
    return ModelError(
        f"unknown model {config.name!r}: no such directory, and no such id on the hub "
        "(a private model needs your token: swarmctl keys set huggingface)",
        next=OTHER_MODEL,
    )
