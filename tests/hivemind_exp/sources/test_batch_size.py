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
from hivemind_exp.sources import batch_size, graph_decoding
from hivemind_exp.sources import local as local_module
from hivemind_exp.sources.graph_decoding import decode
from hivemind_exp.sources.local import LocalSource, SharedBatch
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

    def batch(self: LocalSource, prompts: Sequence[Prompt], *rooms: Any, size: int, **how: Any) -> list[Rollout]:
        if min(size, len(prompts)) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return generate(self, prompts, *rooms, size=size, **how)

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


def test_with_a_graph_a_batch_has_places_for_some_and_the_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, _ = source(batch=6)
    expected = plain.answer(PROMPTS)
    limited(monkeypatch, 3)
    monkeypatch.setattr(LocalSource, "_has_graph", lambda *_: True)
    monkeypatch.setattr(local_module, "free_memory", lambda _: None)
    asked: list[int] = []
    monkeypatch.setattr(
        graph_decoding, "decode", lambda *args, rows, **how: asked.append(rows) or decode(*args, rows=rows, **how)
    )
    local, events = source(batch=8)
    assert local.answer(PROMPTS) == expected
    assert asked == [3]
    assert "6 completions at a time" in events.of("warning")[0]["message"]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_processes_complete_parts_of_all_prompts(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    expected = [list(rollout.ids) for rollout in source(batch=6)[0].answer(PROMPTS)]
    monkeypatch.setattr(LocalSource, "_has_graph", lambda *_: True)
    monkeypatch.setattr(local_module, "free_memory", lambda _: None)
    ids, rooms = [prompt.ids for prompt in PROMPTS], [6, 2, 6, 6, 1, 6]
    made = [
        row[:room]
        for place in range(2)
        for row, room in zip(
            source()[0].share(SharedBatch(ids, rooms, None, size, 2), place),
            rooms[place * 3 : place * 3 + 3],
            strict=True,
        )
    ]
    assert made == [row[:room] for row, room in zip(expected, rooms, strict=True)]
    batch = SharedBatch(ids, rooms, 3, size, 2)
    sampled = [source()[0].share(batch, place) for place in (0, 1)]
    assert sampled == [source()[0].share(batch, place) for place in (0, 1)]


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
