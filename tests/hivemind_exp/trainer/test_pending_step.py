"""A step that was recorded but not taken, because memory ran out in it, is taken with shorter completions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hivemind_exp.errors import OutOfMemory
from hivemind_exp.journal.records import Manifest, TrainingRow
from hivemind_exp.source_kinds import Kind
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer
from hivemind_exp.trainer.pending_step import within_limit
from tests.support.nodes import Events, make_config, run

ROOM = 4
"""Tokens of a completion for which memory suffices."""


def row(kind: Kind, tokens: int, **changes: Any) -> TrainingRow:
    made = TrainingRow(kind, "local", "spell_backward", 0, (1, 2), tuple(range(tokens)), "text", 1.0, 1.0, 0)
    return replace(made, **changes)


def test_completions_from_all_sources_have_the_limit_but_conversations_do_not() -> None:
    short, conversation = row(Kind.POLICY, 4), row(Kind.POLICY, 9, heard=((2, 5),))
    long = row(Kind.POLICY, 5), row(Kind.TEACHER, 9), row(Kind.PEER, 5), row(Kind.HINTED, 6)
    made = Manifest(step=3, round=3, seed=1, micro_batch=2, rows=(short, *long, conversation), floor=None)
    kept, count = within_limit(made, 4)
    assert (kept.rows, count) == ((short, conversation), 4)
    assert within_limit(kept, 4) == (kept, 0)


@pytest.mark.slow
def test_a_node_that_ran_out_of_memory_continues_with_shorter_completions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = SourceGRPOTrainer._inputs

    def limited(self: SourceGRPOTrainer, rows: list[TrainingRow], *rest: Any) -> dict[str, Any]:
        if max(len(each.completion_ids) for each in rows) > ROOM:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inputs(self, rows, *rest)

    monkeypatch.setattr(SourceGRPOTrainer, "_inputs", limited)
    root = tmp_path / "node"
    config = make_config(game={"rounds": 2})
    for _ in range(2):  # the same settings lead to the same error
        with pytest.raises(OutOfMemory) as caught:
            run(config, root)
    assert caught.value.next == f"swarmctl run --node test --set generation.max_completion_tokens={ROOM}"
    events = Events()
    shorter = config.generation.model_copy(update={"max_completion_tokens": ROOM})
    assert run(config.model_copy(update={"generation": shorter}), root, emit=events).round == 2
    told = [each["message"] for each in events.of("warning") if each["code"] == "less_memory"]
    assert any(f"completions of more than {ROOM} tokens" in each for each in told)
