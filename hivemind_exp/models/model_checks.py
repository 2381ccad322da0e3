"""Check what training assumes of a model: complete, finite and causal, with the same results with and without padding.

No error would report these faults otherwise: transformers fills missing weights with random numbers and ignores those
that it has no place for, some models count positions from the padding, and TRL computes log-probabilities without the
model's own last step.
"""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hivemind_exp.config import GenerationConfig, LoraConfig
from hivemind_exp.errors import ConfigurationError, ModelError
from hivemind_exp.foreign_text import foreign, visible
from hivemind_exp.models.model_location import OTHER_MODEL

_OTHER_HEADS = ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")
_PADDING = 5
"""Padding tokens in the test."""
_POSITIONS = ("max_position_embeddings", "max_seq_len")
"""The settings that limit a text's length, by family. Values below 2 mean that there is no limit."""
_MOST_LAYERS = 2000
"""More than any model has. Even an empty model of a million layers would take hours to build."""
_MOST_ZEROS = 0.1
"""Largest share of matrices that may consist of zeros. An incomplete download can end with them."""
_SHOWN = 3
"""How many names a message lists."""


def check_kind(config: PretrainedConfig, name: str) -> None:
    """Raise ``ModelError`` for a configuration that does not describe a trainable causal language model."""
    built = str((config.architectures or [""])[0] or "")
    if config.is_encoder_decoder or built.endswith(_OTHER_HEADS):
        what = foreign(built) if built else "model with encoder and decoder"
        raise ModelError(f"{name} is a {what}, not a causal language model", next=OTHER_MODEL)
    layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > _MOST_LAYERS:
        raise ModelError(f"config.json of {name} describes a model of {layers} layers; it is damaged", next=OTHER_MODEL)
    quantized = getattr(config, "quantization_config", None)
    if quantized:
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized.quant_method
        how = foreign(getattr(method, "value", method))
        raise ModelError(
            f"{name} is quantized ({how}), and quantized weights cannot be trained; use the model it was made from",
            next=OTHER_MODEL,
        )


def check_complete(model: nn.Module, loaded: Mapping[str, Any], name: str) -> None:
    """Raise ``ModelError`` if weights are missing, left over, or have the wrong shape.

    ``loaded``: transformers' loading info.
    """
    shapes = sorted(
        f"{key} is {tuple(there)}, not {tuple(expected)}" for key, there, expected in loaded["mismatched_keys"]
    )
    for what, found in (
        ("weights are missing", sorted(loaded["missing_keys"])),
        ("weights have the wrong shape", shapes),
        ("weights have no place in the model that config.json describes", sorted(_left_over(model, loaded))),
    ):
        if found:
            shown = "; ".join(map(visible, found[:_SHOWN])) + ("; …" if len(found) > _SHOWN else "")
            raise ModelError(
                f"{name} cannot be loaded as a causal language model: {len(found)} {what} ({shown}). Download it "
                "again, or use another model",
                next=OTHER_MODEL,
            )


def _left_over(model: nn.Module, loaded: Mapping[str, Any]) -> Iterator[str]:
    """Yield the weights in the file without which the model is another one: further layers, biases, adapters.

    Other heads and parts for pictures are not needed.
    """
    modules = dict(model.named_modules())
    for key in loaded["unexpected_keys"]:
        parent = key
        while parent not in modules:
            parent = parent.rpartition(".")[0]
        rest = key[len(parent) :].strip(".")
        is_weight = rest.rpartition(".")[2] in ("weight", "bias")
        in_layer = any(part.isdigit() for part in parent.split("."))
        if isinstance(modules[parent], nn.ModuleList):
            # Some models come with layers that predict several tokens at once, which transformers doesn't use.
            if not getattr(getattr(model, "config", None), "num_nextn_predict_layers", 0):
                yield key
        elif is_weight and (in_layer if "." in rest else hasattr(modules[parent], "weight")):
            yield key


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
    text = config.get_text_config()
    positions = next((each for each in (getattr(text, key, None) for key in _POSITIONS) if isinstance(each, int)), 0)
    total = generation.max_prompt_tokens + generation.max_completion_tokens
    if 1 < positions < total:
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

    Raises ``ModelError`` if weights are not finite or many are zero, if results are not finite or all equal, if a token
    depends on later ones, or if padding changes results.
    """
    _check_weights(model, name)
    ids = torch.tensor([tokenizer.encode("What is 2 + 3 + 4?", add_special_tokens=False)], device=model.device)
    alone = _logits(model, ids)
    if not torch.isfinite(alone).all() or bool((alone.amax(-1) == alone.amin(-1)).any()):
        what = "the same score for every token" if torch.isfinite(alone).all() else "scores that are not finite"
        raise ModelError(f"{name} computes {what}, so its weights are damaged. Download it again", next=OTHER_MODEL)
    tolerance = (1e-4 if model.dtype == torch.float32 else 0.1) * (1 + alone.abs().max())
    changed = _logits(model, torch.cat([ids[:, :-1], ids[:, :1]], dim=1))
    if (alone - changed)[:, :-1].abs().max() > tolerance / 10:  # the same shapes round the same way
        raise ModelError(f"{name} is not a causal language model: a token depends on later ones", next=OTHER_MODEL)
    for _ in range(2):
        padding = torch.full_like(ids[:, :1], tokenizer.pad_token_id).expand(1, _PADDING)
        padded = torch.cat([padding, ids], dim=1)
        if (alone - _logits(model, padded, _PADDING)[:, _PADDING:]).abs().max() <= tolerance:
            return
        if "position_ids" not in inspect.signature(model.forward).parameters:
            break
        model.register_forward_pre_hook(_count_positions, with_kwargs=True)
    raise ModelError(
        f"{name} gives different results for padded prompts, so it cannot be trained here", next=OTHER_MODEL
    )


def check_head(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise ``ModelError`` unless TRL computes the log-probabilities that the model itself gives.

    TRL multiplies the last hidden state by the output embedding. Some models do more, such as limit the logits.
    """
    from trl.trainer.utils import add_fused_lm_head  # slow to import

    ids = torch.tensor([tokenizer.encode("What is 2 + 3 + 4?", add_special_tokens=False)], device=model.device)
    own = torch.log_softmax(_logits(model, ids)[:, :-1], -1).gather(2, ids[:, 1:, None])[..., 0]
    add_fused_lm_head(model)
    try:
        with torch.no_grad():
            found = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, fused_lm_head=True).log_probs
        differs = bool((found.float() - own).abs().max() > (1e-4 if model.dtype == torch.float32 else 0.1))
    except (AttributeError, TypeError):  # it has no such parts
        differs = True
    finally:
        del model.__dict__["forward"]
    if differs:
        raise ModelError(
            f"{name} computes probabilities in a way that TRL's trainer does not support, so it cannot be trained here",
            next=OTHER_MODEL,
        )


def _check_weights(model: PreTrainedModel, name: str) -> None:
    matrices, zeros = 0, []
    for key, weights in model.named_parameters():
        if not weights.numel():
            continue
        low, high = weights.detach().aminmax()
        if not torch.isfinite(torch.stack([low, high])).all():
            raise ModelError(
                f"{name} has weights that are not finite ({visible(key)}). Download it again", next=OTHER_MODEL
            )
        if weights.dim() > 1 and not key.endswith("bias"):
            matrices += 1
            zeros += [key] if low == high == 0 else []
    if len(zeros) > _MOST_ZEROS * matrices:
        shown = "; ".join(map(visible, zeros[:_SHOWN])) + ("; …" if len(zeros) > _SHOWN else "")
        raise ModelError(
            f"{len(zeros)} of the {matrices} matrices of {name} contain only zeros ({shown}). Download it again",
            next=OTHER_MODEL,
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
