"""A smaller card than the one that is there: a limit on what torch may allocate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch

from benchmarks.gpu.models import release


@contextmanager
def limited(size: float) -> Iterator[None]:
    """Let torch allocate at most ``size`` bytes, and let a node see only the rest of them as free."""
    total = torch.cuda.mem_get_info()[1]
    release()
    torch.cuda.set_per_process_memory_fraction(size / total)

    def free(_device: str) -> int:
        return int(size - torch.cuda.memory_allocated())

    with (
        patch("hivemind_exp.trainer.micro_batches.free_memory", free),
        patch("hivemind_exp.sources.batch_size.free_memory", free),
        patch("hivemind_exp.sources.local.free_memory", free),
    ):
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
