"""Load a model and its tokenizer, with a clear error for each way this can fail."""

import os
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hivemind_exp.config import Config, LoraConfig, ModelConfig
from hivemind_exp.errors import ConfigurationError, HubUnreachable, ModelError, NodeError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.hub_access import hub_answers, is_offline
from hivemind_exp.known_key import without_known_key
from hivemind_exp.models import smollm2
from hivemind_exp.models.chat_format import fit
from hivemind_exp.models.fused_kernels import plain_models
from hivemind_exp.models.memory import Shape, count_weights
from hivemind_exp.models.model_checks import (
    check_behaviour,
    check_complete,
    check_kind,
    check_lengths,
    check_targets,
    check_vocabulary,
)
from hivemind_exp.models.model_location import (
    OTHER_MODEL,
    TINY,
    ModelLocation,
    cached_config,
    local_directory,
    locate_model,
    no_such_model,
)
from hivemind_exp.models.quantized import four_bits
from hivemind_exp.models.tiny import build_model, build_tokenizer
from hivemind_exp.seeds import derive_seed

_LARGER = 2
"""A model that config.json describes may have this many times as many weights as its files: some share weights."""


def load_tokenizer(config: ModelConfig, token: str | None = None) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer, which pads on the left, with its chat template adapted to our chats.

    ``token``: the hub token. Raises ``ModelError``.
    """
    if config.name == TINY:
        return build_tokenizer()
    return _tokenizer(config, _fetch_config(config, token), token)


def _tokenizer(config: ModelConfig, place: str, token: str | None = None) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            place, revision=config.revision, padding_side="left", token=token, trust_remote_code=False
        )
    except Exception as error:  # libraries raise anything for damaged files
        raise _explain(config, error, "has no tokenizer that can be loaded", token) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer of {config.name} has no end-of-sequence token, so completions would never end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    fit(tokenizer, config.name, config.thinking)
    return tokenizer


def load_model(
    config: ModelConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    dtype: str,
    seed: int,
    token: str | None = None,
    device: str = "cpu",
) -> PreTrainedModel:
    """Return the causal language model, on the CPU; on ``device`` if its weights are in 4 bits. Raises ``ModelError``.

    Trained weights are kept in float32, because bfloat16 is too coarse for the small updates of a GRPO learning rate.
    The computation is in ``dtype``, and so are the frozen weights under adapters. The model is complete, and its
    results don't depend on padding.
    """
    if config.name == TINY:
        with plain_models():
            tiny = build_model(tokenizer, derive_seed(seed, "tiny"))
        tiny.generation_config = _plain(tiny.generation_config, config.name)
        return tiny
    place = _fetch_config(config, token)
    stored = getattr(torch, dtype) if config.lora is not None else torch.float32
    how = {"quantization_config": four_bits(dtype), "device_map": {"": device}} if config.load_in_4bit else {}
    with plain_models():
        model = _model(config, place, dtype=stored, token=token, **how)
        check_vocabulary(model, tokenizer, config.name)
        _check_adapter(config, model.config)
        check_behaviour(model, tokenizer, config.name)
    model.generation_config = _plain(model.generation_config, config.name)
    return model


def load_trained(
    config: ModelConfig, directory: str, tokenizer: PreTrainedTokenizerBase, *, dtype: str
) -> PreTrainedModel:
    """Return the model from a checkpoint with all its weights. Raises ``ModelError``."""
    return load_model(config.model_copy(update={"name": directory}), tokenizer, dtype=dtype, seed=0)


def with_adapter(base: PreTrainedModel, directory: str, *, trainable: bool) -> Any:
    """Return ``base`` with the adapters from a checkpoint."""
    import peft

    return peft.PeftModel.from_pretrained(base, directory, is_trainable=trainable)


def _plain(defaults: GenerationConfig, model: str) -> GenerationConfig:
    """Return generation defaults that do nothing but end a completion. They are saved with checkpoints.

    With the base model's top_k and penalties, a server that loads a checkpoint would sample a different policy from the
    trained one. The neutral values are explicit because transformers itself defaults to top_k = 50. Raises
    ``ModelError`` if the tokens that end a completion are not numbers.
    """
    ended = defaults.eos_token_id
    if not all(isinstance(each, int) for each in (ended if isinstance(ended, list) else [ended or 0])):
        raise ModelError(f"{model}: eos_token_id in its generation_config.json is not a number or a list of numbers")
    ends = {name: getattr(defaults, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return GenerationConfig(**ends, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, repetition_penalty=1.0)


def _model(config: ModelConfig, place: str, **how: Any) -> PreTrainedModel:
    """Return the model with its complete weights. Raises ``ModelError``."""
    try:
        shape = AutoConfig.from_pretrained(
            place, revision=config.revision, token=how.get("token"), trust_remote_code=False
        )
        check_kind(shape, config.name)
        if how.get("device_map") != "meta":
            _check_size(config, place, shape, how.get("token"))
        model, loaded = AutoModelForCausalLM.from_pretrained(
            place,
            revision=config.revision,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # reported below, by name
            output_loading_info=True,
            **how,
        )
    except NodeError:
        raise
    except Exception as error:  # libraries raise anything for damaged files
        if isinstance(error, MemoryError) or "memory" in str(error):
            raise
        raise _explain(config, error, "cannot be loaded as a causal language model", how.get("token")) from error
    check_complete(model, loaded, config.name)
    return model


def _check_size(config: ModelConfig, place: str, shape: PretrainedConfig, token: str | None) -> None:
    """Raise ``ModelError`` if config.json describes a much larger model than the weights in its files.

    transformers would fill what is missing with random numbers, and memory with it, before it reports anything.
    """
    if not Path(place).is_dir():  # downloads the weights and names what is missing, but loads none
        _model(config, place, device_map="meta", dtype=torch.float32, token=token)
        return
    found = count_weights(Path(place).glob("*.safetensors"))
    found = found or sum(path.stat().st_size for path in Path(place).glob("*.bin"))  # a weight has a byte or more
    if not found:
        return
    with torch.device("meta"):
        described = AutoModelForCausalLM.from_config(shape, trust_remote_code=False).num_parameters()
    if described > _LARGER * found:
        _model(config, place, device_map="meta", dtype=torch.float32)  # names what is missing
        raise ModelError(
            f"config.json of {config.name} describes a model of {described} parameters, but its files contain {found}. "
            "Download it again, or use another model",
            next=OTHER_MODEL,
        )


def rehearse(config: Config) -> None:
    """Check the model without loading its weights. Does nothing for one that is not on this machine yet.

    Raises ``ModelError`` and ``ConfigurationError``.
    """
    name, directory = config.model.name, locate_model(config.model).directory
    if directory is None:
        return
    place = str(directory)
    tokenizer = _tokenizer(config.model, place)
    model = _model(config.model, place, device_map="meta", dtype=torch.float32)
    check_vocabulary(model, tokenizer, name)
    _check_adapter(config.model, model.config)
    check_lengths(model.config, config.generation, name)


def adapter_config(lora: LoraConfig | None) -> Any:
    """Return peft's configuration for the adapters; None if all weights are trained."""
    if lora is None:
        return None
    import peft

    targets = lora.targets if lora.targets == "all-linear" else [name.strip() for name in lora.targets.split(",")]
    return peft.LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type="CAUSAL_LM"
    )


def _check_adapter(config: ModelConfig, shape: PretrainedConfig) -> None:
    """Raise ``ConfigurationError`` if peft cannot put the configured adapters into a model of this shape."""
    if config.lora is None:
        return
    import peft

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape, trust_remote_code=False)
    check_targets(model, config.lora)
    try:
        peft.get_peft_model(model, adapter_config(config.lora))
    except Exception as error:  # peft raises anything for modules that it does not know
        raise ConfigurationError(
            f"{config.name} does not support the adapters in model.lora: {foreign(error)}",
            next="swarmctl run --set model.lora=false",
        ) from error


def locate(config: ModelConfig) -> ModelLocation:
    """Find a model on this machine and measure it. Raises ``ModelError`` for a directory without a model."""
    found = locate_model(config)
    if found.directory is None:
        return found
    try:
        shape = AutoConfig.from_pretrained(
            str(found.directory), revision=config.revision, local_files_only=True, trust_remote_code=False
        )
        check_kind(shape, config.name)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(shape, trust_remote_code=False)
    except NodeError:
        raise
    except Exception as error:  # libraries raise anything for damaged files
        raise _explain(config, error, "is not a causal language model") from error
    parameters = model.num_parameters()
    return replace(found, parameters=parameters, shape=Shape.read(model.config.to_dict(), parameters))


def _fetch_config(config: ModelConfig, token: str | None) -> str:
    """Fetch config.json first, and raise a ``ModelError`` with the exact reason if that fails.

    transformers' own errors do not distinguish the reasons. Returns what to load from: a hub id or a directory. If
    the hub does not answer, this is the directory of the cached snapshot: given the id, libraries would retry the hub
    for half a minute per file.
    """
    local = local_directory(config)
    if local is not None:
        return str(local)
    if config.name == smollm2.NAME:
        cached = cached_config(config)
        if cached is None:
            raise ModelError(f"{smollm2.TITLE} is not on this machine", next="swarmctl run --profile smol")
        return str(Path(cached).parent)
    if not hub_answers():
        cached = cached_config(config)
        if cached is None:
            raise _unreachable(config)
        return str(Path(cached).parent)
    import httpx2
    from huggingface_hub import errors, hf_hub_download

    from hivemind_exp.hub_client import limit_hub

    limit_hub()
    name = config.name
    try:
        hf_hub_download(name, "config.json", revision=config.revision, token=token)
    except errors.GatedRepoError as error:
        message = f"{name} is gated: accept its terms on the hub, and save a token for your account"
        raise ModelError(message, next="swarmctl keys set huggingface") from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{name} has no revision {config.revision}") from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise no_such_model(config) from error
    except errors.LocalEntryNotFoundError as error:
        raise _unreachable(config) from error
    except errors.EntryNotFoundError as error:
        raise ModelError(f"no model in {name} on the hub: config.json is missing") from error
    except (errors.OfflineModeIsEnabled, errors.HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise _unreachable(config) from error
    return name


def _unreachable(config: ModelConfig) -> ModelError:
    where = os.environ.get("HF_ENDPOINT", "the Hugging Face hub")
    reason = "HF_HUB_OFFLINE is set" if is_offline() else f"{where} is unreachable"
    return HubUnreachable(
        f"{config.name} is not on this machine, and {reason}. To use a local copy, pass --model DIRECTORY",
        next="swarmctl run --profile demo",
    )


def _explain(config: ModelConfig, error: BaseException, what: str, token: str | None = None) -> ModelError:
    """Return an error of a library as an error for people. It may quote what a hub said to the ``token``."""
    if "trust_remote_code" in str(error):
        reason = "it needs code from its repository, and such code is never run (trust_remote_code = False)"
        return ModelError(f"{config.name} cannot be loaded: {reason}", next=OTHER_MODEL)
    if isinstance(error, (SafetensorError, UnpicklingError, EOFError)):
        what += "; its weights are damaged or only Git LFS pointers (git lfs pull)"
    text = str(error).strip() or type(error).__name__
    if isinstance(error, UnpicklingError):  # torch's text advises to run the file's code
        text = text.partition(". ")[0]
    return ModelError(f"{config.name} {what}: {without_known_key(foreign(text), token, '(the token)')}")
