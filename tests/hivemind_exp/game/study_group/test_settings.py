"""Settings of the study group: unplayable ones are refused, with a command that works."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.journal.journal import Journal
from hivemind_exp.offload.rules import check_offload
from hivemind_exp.rollouts.types import Group, Prompt, Rollout
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.schedule import GroupSplit, split_group
from hivemind_exp.tasks.base import Question, RewardTerm, Score
from hivemind_exp.train_settings import TrainConfig
from hivemind_exp.trainer.advantages import build_rows

QUESTION = Question("t", "train", 0, 0, "q", {}, "d", "k")


def config(game: dict[str, Any] | None = None, **offload: Any) -> Config:
    box = {"base_url": "http://box/v1", "model": "m", "batch": True, "free": True}
    return Config.model_validate(
        {"game": {"kind": "study-group"} | (game or {}), "offload": offload, "providers": {"box": box}}
    )


@pytest.mark.parametrize(
    ("game", "offload"),
    [
        ({"kind": "sampling"}, {"stages": ["answer", "critique"]}),
        ({"kind": "sampling"}, {"stages": ["resolve"]}),
        ({"kind": "sampling", "role": "pirate"}, {}),
        ({"role": "wizard"}, {}),
        ({}, {"stages": ["vote"]}),
    ],
)
def test_settings_of_another_game_are_errors(game: dict[str, Any], offload: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        config(game, **offload)


@pytest.mark.parametrize(
    ("offload", "message", "setting"),
    [
        ({"kind": "relay"}, "no answers of its own", "game.kind=sampling"),
        ({"batch": True, "stages": ["answer", "resolve"]}, "too long for later stages", "offload.batch=false"),
    ],
)
def test_unplayable_settings_are_refused_with_a_working_alternative(
    offload: dict[str, Any], message: str, setting: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        check_offload(config(provider="box", **offload))
    assert str(caught.value.next).endswith(setting)


def test_a_teachers_answers_can_come_in_batches() -> None:
    check_offload(config(provider="box", batch=True))


def test_one_answer_slot_stays_on_this_machine_for_any_share() -> None:
    offload = config(provider="box").offload
    assert split_group(offload, 0, "answer", 8, least=1) == GroupSplit(1, 7)
    assert split_group(offload, 0, "critique", 8) == GroupSplit(8, 0)
    later = config(provider="box", stages=["critique"]).offload
    assert split_group(later, 0, "critique", 8) == GroupSplit(0, 8)


def scored(outcome: float, form: float) -> Score:
    return Score(outcome, True, "", (RewardTerm("correct", 2 * outcome, 2.0, ""), RewardTerm("tags", form, 1.0, "")))


def test_format_terms_affect_own_rows_but_not_a_teachers() -> None:
    rollouts = [
        Rollout(kind, kind.value, f"{place}", (7, 8), truncated=False)
        for place, kind in enumerate((Kind.POLICY, Kind.POLICY, Kind.TEACHER, Kind.TEACHER))
    ]
    scores = (scored(0.0, 0.0), scored(0.0, 1.0), scored(1.0, 0.0), scored(1.0, 1.0))
    group = Group(Prompt(QUESTION, "answer", (), (5, 6)), tuple(rollouts), scores)
    weights = [round(row.advantage, 2) for row in build_rows([group], TrainConfig(), {})]
    assert weights == [-0.71, 0.71, 1.0, 1.0]
    joint = build_rows([group], TrainConfig(teacher_loss="luffy"), {})
    assert [round(row.advantage, 2) for row in joint] == [-0.87, -0.87, 0.87, 0.87]


def test_a_journal_keeps_terms_prompts_and_turns(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", "s")
    asked = Prompt(QUESTION, "critique", ({"role": "user", "content": "q"},), (5,), {"students": [], "majority": [100]})
    journal.write_prompts(3, [asked], first=8)
    rows = (Rollout(Kind.POLICY, "local", "x", (1,), truncated=False),)
    journal.write_rollouts(3, 0, [Group(asked, rows)])
    journal.write_scores(3, [Group(asked, rows, (scored(1.0, 0.5),))])
    again = Journal(tmp_path / "j", "s")
    assert again.prompt(3, QUESTION, "critique") == replace(asked, ids=())
    assert again.prompt(3, QUESTION, "resolve") is None
    assert again.scored(3, "critique", "d", range(8)) == [(0, Kind.POLICY, "x", scored(1.0, 0.5))]
    assert again.stage_run(0) is None
    assert again.chunks(3, "critique") == 0


def test_a_journal_without_reward_terms_is_upgraded(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", "s")
    asked, rows = Prompt(QUESTION, "answer", (), (5,)), (Rollout(Kind.POLICY, "local", "x", (1,), truncated=False),)
    journal.write_rollouts(0, 0, [Group(asked, rows)])
    journal.write_scores(0, [Group(asked, rows, (Score(1.0, True, "right"),))])
    journal._db.execute("ALTER TABLE completions DROP COLUMN terms")
    journal._db.executescript("DROP TABLE turns; DROP TABLE notes;")
    journal.close()
    again = Journal(tmp_path / "j", "s")
    assert again.scored(0, "answer", "d", range(8)) == [(0, Kind.POLICY, "x", Score(1.0, True, "right"))]
    again.write_scores(0, [Group(asked, rows, (scored(1.0, 0.5),))])
    assert again.scored(0, "answer", "d", range(8))[0][3] == scored(1.0, 0.5)
