"""Sums of tensors: in buckets, and what is reported if one fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed

from hivemind_exp.errors import ProcessEnded
from hivemind_exp.parallel import group
from hivemind_exp.parallel.group import ProcessGroup, wait_quietly


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[ProcessGroup]:
    """Return a group of this process only."""
    made = ProcessGroup(tmp_path / "meeting", 0, 1, "cpu")
    yield made
    made.leave(together=True)
    assert not distributed.is_initialized()


def test_every_tensor_is_added_up_once_whatever_its_size_format_and_layout(
    alone: ProcessGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "_BUCKET", 10)
    shapes = [(3,), (4, 2), (20,), (2, 2), (1,), (0,), (5, 3), (7,)]
    tensors = [torch.randn(shape).to(torch.float32 if i % 3 else torch.bfloat16) for i, shape in enumerate(shapes)]
    tensors.append(torch.randn(6, 5).t())
    before = [tensor.clone() for tensor in tensors]
    sums: list[torch.Tensor] = []
    add = distributed.all_reduce

    def double(tensor: torch.Tensor, *, async_op: bool) -> distributed.Work | None:
        sums.append(tensor)
        return add(tensor.mul_(2), async_op=async_op)

    monkeypatch.setattr(distributed, "all_reduce", double)
    alone.add_up(tensors, wait_quietly)
    for tensor, known in zip(tensors, before, strict=True):
        assert torch.equal(tensor, known * 2)
    assert sum(each.numel() for each in sums) == sum(each.numel() for each in tensors)
    assert len(sums) < len(tensors)


def test_a_failed_sum_is_reported_as_the_end_of_the_process_that_caused_it(
    alone: ProcessGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def is_completed(self) -> bool:
            return True

        def wait(self) -> None:
            raise RuntimeError("Connection closed by peer")

    looks: list[None] = []

    def check() -> None:
        looks.append(None)
        if len(looks) == 3:
            raise ProcessEnded("process 2 of 2 ended")

    monkeypatch.setattr(distributed, "all_reduce", lambda *_, **__: Broken())
    with pytest.raises(ProcessEnded, match="process 2 of 2 ended"):
        alone.add_up([torch.ones(1)], check)
    monkeypatch.setattr(group, "_BETWEEN_LOOKS_S", 0.0)
    with pytest.raises(RuntimeError, match="Connection closed by peer"):
        alone.add_up([torch.ones(1)], wait_quietly)
