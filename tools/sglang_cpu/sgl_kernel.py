"""Stands for SGLang's kernels, which are built for GPUs. Its layers use torch instead, except for pinned memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import torch

__version__ = "0.4.10"


def _unpinned(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that makes tensors, without ``pin_memory``, which needs a GPU."""

    @functools.wraps(make)
    def unpinned(*args: Any, **options: Any) -> Any:
        options.pop("pin_memory", None)
        return make(*args, **options)

    return unpinned


for _name in ("tensor", "empty", "zeros", "ones", "full", "arange", "empty_like", "zeros_like"):
    setattr(torch, _name, _unpinned(getattr(torch, _name)))
torch.Tensor.pin_memory = lambda tensor, *_: tensor  # type: ignore[method-assign]


def __getattr__(name: str) -> Callable[..., NoReturn]:
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(f"sgl_kernel.{name} needs a GPU")

    return missing
