"""The weights in the 16-bit format of the computation, for as long as a model generates.

Trained weights are in float32, and autocast converts each of them again for every token. Here they are converted once,
with the same result.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hivemind_exp.models.out_of_memory import within_memory


@contextmanager
def half_weights(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Use linear layers' weights in ``dtype`` inside the block, which must run under autocast to it without gradients.

    The weights themselves don't change. Without memory for the copies, autocast converts them as usual.
    """
    layers = [] if dtype == torch.float32 else _full_layers(model)
    copies, _ = within_memory(lambda: [_copy(layer.weight, dtype) for layer in layers])
    kept = [layer.weight for layer in layers]
    try:
        for layer, copy in zip(layers, copies or kept, strict=True):
            layer.weight = copy
        yield
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            layer.weight = weight


def _full_layers(model: nn.Module) -> list[nn.Linear]:
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    return [layer for layer in linear if layer.weight.dtype == torch.float32]


def _copy(weight: Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(weight.detach().to(dtype), requires_grad=False)
