"""Counts a model's weights."""

from torch import nn


def count_parameters(model: nn.Module) -> int:
    """Return the number of a model's weights without its adapters."""
    return sum(value.numel() for name, value in model.named_parameters() if "lora_" not in name)
