"""Measures what each source adds to a step's gradient."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from hivemind_exp.parallel.sharding import local

MOST_SAMPLED = 2**24
"""Gradients of more weights than this are measured on an evenly spaced sample: a copy of all would need as much memory
as the model."""


class GradientMeter:
    """Measures the parts of a gradient while they add up in ``grad``, one after the other."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        """``parameters``: with empty gradients. Of divided ones, this process's part is measured."""
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._stride = max(1, math.ceil(sum(local(each).numel() for each in self._parameters) / MOST_SAMPLED))
        self._before: list[Tensor | None] = [None] * len(self._parameters)

    def added_vector(self) -> Tensor:
        """Return what was added since the last call as a vector (float32), scaled to have its norm.

        Vectors of several processes can be added up: their sum has the norm of the sum of what each added.
        """
        parts = []
        for place, parameter in enumerate(self._parameters):
            added = self._added(place, torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
            parts.append(added * math.sqrt(parameter.numel() / added.numel()))
        return torch.cat(parts)

    def added_norm(self) -> Tensor:
        """Return the norm of what was added since the last call, as a scalar on the parameters' device."""
        total = local(self._parameters[0]).new_zeros((), dtype=torch.float32)
        for place, parameter in enumerate(self._parameters):
            if parameter.grad is None:
                continue
            grad = local(parameter.grad.detach())
            added = self._added(place, grad)
            total = total + added.square().sum() * (grad.numel() / max(1, added.numel()))
        return total.sqrt()

    def _added(self, place: int, grad: Tensor) -> Tensor:
        """Return what was added to a parameter's gradient since the last call, as far as it is sampled (float32)."""
        now = grad.detach().flatten()[:: self._stride].clone()
        before, self._before[place] = self._before[place], now
        return now.float() if before is None else now.float() - before.float()
