"""Check what training assumes of a model: complete, finite and causal, with the same results with and without padding.

No error would report these faults otherwise: transformers fills missing weights with random numbers, and some models
count positions from the padding.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hivemind_exp.config import GenerationConfig, LoraConfig
from hivemind_exp.errors import ConfigurationError, ModelError
from hivemind_exp.foreign_text import foreign, visible
from hivemind_exp.models.chat_format import OTHER_MODEL

_OTHER_HEADS = ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
_PADDING = 5
"""Padding tokens in the test."""
_SHOWN = 3
"""Most names that a message lists."""


def check_kind(config: PretrainedConfig, name: str) -> None:
    """Raise ``ModelError`` for a configuration that does not describe a trainable causal language model."""
    built = (config.architectures or [""])[0]
    if config.is_encoder_decoder or built.endswith(_OTHER_HEADS):
        what = foreign(built) if built else "model with encoder and decoder"
        raise ModelError(f"{name} is a {what}, not a causal language model", next=OTHER_MODEL)
    quantized = getattr(config, "quantization_config", None)
    if quantized:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized.quant_method
        how = foreign(getattr(method, "value", method))
        raise ModelError(
            f"{name} is quantized ({how}), and quantized weights cannot be trained; use the model it was made from",
            next=OTHER_MODEL,
        )


def check_complete(loaded: Mapping[str, Any], name: str) -> None:
    """Raise ``ModelError`` if weights are missing or have the wrong shape. ``loaded``: transformers' loading info."""
    shapes = sorted(
        f"{key} is {tuple(there)}, not {tuple(expected)}" for key, there, expected in loaded["mismatched_keys"]
    )
    for what, found in (
        ("weights are missing", sorted(loaded["missing_keys"])),
        ("weights have the wrong shape", shapes),
    ):
        if found:
            shown = "; ".join(map(visible, found[:_SHOWN])) + ("; …" if len(found) > _SHOWN else "")
            raise ModelError(
                f"{name} cannot be loaded as a causal language model: {len(found)} {what} ({shown}). Download it "
                "again, or use another model",
                next=OTHER_MODEL,
            )


def check_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise ``ModelError`` if the tokenizer has tokens without a row in the model's embedding."""
    rows, last = model.get_input_embeddings().num_embeddings, max(tokenizer.get_vocab().values())
    if last >= rows:
        token = foreign(tokenizer.convert_ids_to_tokens(last))
        raise ModelError(
            f"the tokenizer of {name} does not fit its model: it has token {last} ({token}), but the model has "
            f"only {rows} embeddings",
            next=OTHER_MODEL,
        )


def check_lengths(config: PretrainedConfig, generation: GenerationConfig, name: str) -> None:
    """Raise ``ConfigurationError`` if prompt and completion may exceed the model's positions."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    total = generation.max_prompt_tokens + generation.max_completion_tokens
    if isinstance(positions, int) and total > positions:
        completion = min(generation.max_completion_tokens, positions // 2)
        raise ConfigurationError(
            f"{name} has {positions} positions, but generation.max_prompt_tokens + generation.max_completion_tokens = "
            f"{total}",
            next=f"swarmctl run --set generation.max_prompt_tokens={positions - completion} "
            f"--set generation.max_completion_tokens={completion}",
        )


def check_targets(model: nn.Module, lora: LoraConfig | None) -> None:
    """Raise ``ConfigurationError`` if ``model.lora.targets`` names modules that the model does not have."""
    if lora is None or lora.targets == "all-linear":
        return
    names = [name for name, _ in model.named_modules()]
    for target in (each.strip() for each in lora.targets.split(",")):
        if not any(name == target or name.endswith(f".{target}") for name in names):
            linear = {name.rpartition(".")[2] for name, module in model.named_modules() if _can_adapt(module)}
            raise ConfigurationError(
                f"model.lora.targets: the model has no module {target!r}; it has {visible(', '.join(sorted(linear)))}",
                next="swarmctl run --set model.lora.targets=all-linear",
            )


def _can_adapt(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def check_behaviour(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Run the model on a few tokens. Let it count positions from the first token that is not padding, if needed.

    Raises ``ModelError`` if weights are not finite, if a token depends on later ones, or if padding changes results.
    """
    for key, weights in model.named_parameters():
        if not torch.isfinite(torch.stack(weights.detach().aminmax())).all():
            raise ModelError(
                f"{name} has weights that are not finite ({visible(key)}). Download it again", next=OTHER_MODEL
            )
    ids = torch.tensor([tokenizer.encode("What is 2 + 3 + 4?", add_special_tokens=False)])
    alone = _logits(model, ids)
    tolerance = (1e-4 if model.dtype == torch.float32 else 0.1) * (1 + alone.abs().max())
    changed = _logits(model, torch.cat([ids[:, :-1], ids[:, :1]], dim=1))
    if (alone - changed)[:, :-1].abs().max() > tolerance / 10:  # the same shapes round the same way
        raise ModelError(f"{name} is not a causal language model: a token depends on later ones", next=OTHER_MODEL)
    for _ in range(2):
        padded = torch.cat([torch.full((1, _PADDING), tokenizer.pad_token_id), ids], dim=1)
        if (alone - _logits(model, padded, _PADDING)[:, _PADDING:]).abs().max() <= tolerance:
            return
        if "position_ids" not in inspect.signature(model.forward).parameters:
            break
        model.register_forward_pre_hook(_count_positions, with_kwargs=True)
    raise ModelError(
        f"{name} gives different results for padded prompts, so it cannot be trained here", next=OTHER_MODEL
    )


def _logits(model: PreTrainedModel, ids: Tensor, padding: int = 0) -> Tensor:
    """Return the logits (1, T, V) of ids (1, T), the first ``padding`` of which are padding."""
    mask = torch.ones_like(ids)
    mask[:, :padding] = 0
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    return logits


def _count_positions(_model: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Add positions that start at the first non-padding token. Transformers itself does this only in ``generate``."""
    mask = kwargs.get("attention_mask")
    if kwargs.get("position_ids") is None and mask is not None and kwargs.get("past_key_values") is None:
        kwargs["position_ids"] = (mask.long().cumsum(-1) - 1).clamp(min=0)
    return args, kwargs
