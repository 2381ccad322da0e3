"""Whole groups, whoever filled a part of them before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hivemind_exp.config import Config
from hivemind_exp.sources.base import Group, Kind, Prompt, Rollout
from hivemind_exp.sources.filler import GroupFiller
from hivemind_exp.sources.journal import Journal
from tests.hivemind_exp.nodes import Events
from tests.hivemind_exp.sources.test_journal import make_prompt


class Local:
    kind = Kind.POLICY
    name = "local"

    def generate(self, prompts: Sequence[Prompt], count: int, *, seed: int) -> list[tuple[Rollout, ...]]:
        return [(Rollout(self.kind, self.name, f"{seed}", (1,), truncated=False),) * count for _ in prompts]


def test_a_group_that_an_api_began_is_finished_here_once_offloading_is_off(tmp_path: Path) -> None:
    begun, untouched = make_prompt("begun"), make_prompt("untouched")
    journal = Journal(tmp_path / "j", "s")
    paid = Rollout(Kind.TEACHER, "openai", "paid", (2,), truncated=False)
    journal.write_rollouts(0, 0, [Group(begun, (paid, paid), places=(0, 2))])
    filler = GroupFiller(
        Config.model_validate({"game": {"group_size": 4}}),
        journal=journal,
        local=Local(),
        offload=None,
        tokenizer=cast("Any", None),
        verify=list,
        emit=Events(),
    )
    groups = filler.fill(0, [begun, untouched], 0)
    kinds = [[rollout.kind for rollout in group.rollouts] for group in groups]
    assert kinds == [[Kind.TEACHER, Kind.POLICY, Kind.TEACHER, Kind.POLICY], [Kind.POLICY] * 4]
