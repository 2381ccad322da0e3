"""The weights as they are best to generate with: in the 16-bit format of the computation, and with adapters merged.

Trained weights are in float32, and autocast converts each of them again for every token. Adapters add six operations to
each linear layer, for every token. Here, both are done once per generation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hivemind_exp.models.memory import merges
from hivemind_exp.models.out_of_memory import within_memory

if TYPE_CHECKING:
    from peft.tuners.lora import Linear as Adapted


@contextmanager
def generation_weights(model: nn.Module, dtype: torch.dtype, *, room: int | None = None) -> Iterator[None]:
    """Use copies of linear layers' weights inside the block, which must run without gradients.

    Float32 weights are copied to ``dtype``, if it is another format; the block must run under autocast to it then.
    ``room``: the bytes for copies that adapters are merged into. They are merged if that leaves most of it free; None:
    they are not. Merging rounds the sum of weight and adapter to the weight's format. The weights themselves don't
    change. Without memory for the copies, the weights are used as they are.
    """
    adapted = _adapted(model)
    if room is None or not merges(sum(layer.get_base_layer().weight.nbytes for layer in adapted), room):
        adapted = []
    merging = {id(layer.get_base_layer()) for layer in adapted}
    full = [] if dtype == torch.float32 else [each for each in _full_layers(model) if id(each) not in merging]
    copies, _ = within_memory(
        lambda: [_merged(each, dtype) for each in adapted] + [_copy(each.weight, dtype) for each in full]
    )
    if copies is None:
        adapted, full, copies = [], [], []
    layers = [*(each.get_base_layer() for each in adapted), *full]
    kept = [layer.weight for layer in layers]
    try:
        for layer, copy in zip(layers, copies, strict=True):
            layer.weight = copy
        for each in adapted:
            each.merged_adapters = list(each.active_adapters)
        yield
    finally:
        for each in adapted:
            each.merged_adapters = []
        for layer, weight in zip(layers, kept, strict=True):
            layer.weight = weight


def _adapted(model: nn.Module) -> list[Adapted]:
    """Return the layers whose adapters can be merged: not those over weights in 4 bits."""
    if not hasattr(model, "peft_config"):
        return []
    from peft.tuners.lora import Linear as Adapted

    found: list[Any] = [layer for layer in model.modules() if type(layer) is Adapted and not layer.merged]
    return [layer for layer in found if type(layer.get_base_layer()) is nn.Linear]


def _merged(layer: Adapted, dtype: torch.dtype) -> nn.Parameter:
    weight: Tensor = layer.get_base_layer().weight
    total: Tensor = weight.detach().float()
    for name in layer.active_adapters:
        total = total + layer.get_delta_weight(name)
    return nn.Parameter(total.to(dtype if weight.dtype == torch.float32 else weight.dtype), requires_grad=False)


def _full_layers(model: nn.Module) -> list[nn.Linear]:
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    return [layer for layer in linear if layer.weight.dtype == torch.float32]


def _copy(weight: Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(weight.detach().to(dtype), requires_grad=False)
