"""Completions whose memory runs out are generated again, fewer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from hivemind_exp.config import GenerationConfig
from hivemind_exp.errors import OutOfMemory
from hivemind_exp.models.tiny import build_model
from hivemind_exp.rollouts.types import Prompt, Rollout
from hivemind_exp.sources import batch_size
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.stop import StopFlag
from hivemind_exp.tasks.base import Question
from tests.support.recorded_events import Events
from tests.support.step_trainers import TOKENIZER

PROMPTS = [Prompt(Question("t", "train", 0, n, "q", {}, f"d{n}", "k"), "answer", (), (5,) * (3 + n)) for n in range(6)]


def source(batch: Any = "auto") -> tuple[LocalSource, Events]:
    events = Events()
    settings = GenerationConfig(max_completion_tokens=6, batch=batch)
    return LocalSource(build_model(TOKENIZER, 0), TOKENIZER, settings, StopFlag(), _emit=events), events


def limited(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Make memory run out if more than ``most`` completions are generated at a time."""
    generate = LocalSource._batch

    def batch(self: LocalSource, prompts: Sequence[Prompt], **how: Any) -> list[Rollout]:
        if len(prompts) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(self, prompts, **how)

    monkeypatch.setattr(LocalSource, "_batch", batch)


def test_no_completion_is_lost_and_the_limit_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    small, _ = source(batch=3)
    expected = small.generate(PROMPTS, 1, seed=5)
    limited(monkeypatch, 3)
    local, events = source(batch=8)
    assert local.generate(PROMPTS, 1, seed=5) == expected
    assert [each["message"] for each in events.of("warning")] == [
        "the accelerator ran out of memory with 6 completions at a time; they are generated again with 3, the limit "
        "from now on (generation.batch = 3)"
    ]
    local.generate(PROMPTS, 1, seed=6)
    assert len(events.of("warning")) == 1


def test_memory_that_does_not_suffice_for_one_completion_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, 0)
    with pytest.raises(OutOfMemory, match="while a single completion was generated"):
        source()[0].answer(PROMPTS)


def test_a_cpu_always_gets_the_same_batch_and_a_gpu_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    local, _ = source()
    assert local.batch_size(PROMPTS, 100) == 64
    sizes = []
    for kib in (10, 400, 1500, 10**6):
        monkeypatch.setattr(batch_size, "free_memory", lambda _, kib=kib: kib * 2**10)
        sizes.append(local.batch_size(PROMPTS, 100))
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[1] < sizes[2] < sizes[3] == 256
    assert source(batch=3)[0].batch_size(PROMPTS, 100) == 3
