"""Makes memory run out at chosen operators of torch."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class MemoryRunsOut(TorchDispatchMode):
    """Counts operators, and raises what torch raises if memory runs out at those with the numbers ``places``."""

    def __init__(self, places: Collection[int] = ()) -> None:
        super().__init__()
        self._places = places
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        allocates = func.namespace == "aten"  # the profiler's operators do not
        self.count += allocates
        if allocates and self.count in self._places:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return func(*args, **(kwargs or {}))
