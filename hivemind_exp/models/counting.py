"""Counts a model's weights."""

from torch import Tensor, nn


def count_parameters(model: nn.Module) -> int:
    """Return the number of a model's weights without its adapters."""
    return sum(_numel(value) for name, value in model.named_parameters() if "lora_" not in name)


def _numel(weights: Tensor) -> int:
    """Return the number of weights, also of those in 4 bits, of which a byte holds two."""
    state = getattr(weights, "quant_state", None)
    return weights.numel() if state is None else int(state.shape.numel())
