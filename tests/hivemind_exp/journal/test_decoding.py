"""Rows of a journal that are damaged, or that a newer version wrote: the file and the way on are named."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from hivemind_exp.errors import FileProblem, NodeError
from hivemind_exp.journal.journal import Journal
from hivemind_exp.rollouts.types import Group, Prompt, Rollout, Turn
from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.base import Question, RewardTerm, Score
from swarmctl.rollouts import journal as shown

QUESTION = Question("t", "train", 0, 0, "a", {}, "a", "a")
PROMPT = Prompt(QUESTION, "answer", ({"role": "user", "content": "a"},), (5,))
SCORE = Score(0.5, True, "partly", (RewardTerm("right", 0.5, None, ""),))
TALK = Rollout(Kind.POLICY, "local", "text", (1, 2), False, turns=(Turn("assistant", "b", 2),), score=SCORE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "journal.sqlite"
    journal, group = Journal(path, "s"), Group(PROMPT, (TALK,), (SCORE,))
    journal.write_prompts(2, [PROMPT])
    journal.write_rollouts(2, 0, [group])
    journal.write_scores(2, [group])
    journal.close()
    return path


def read_rollouts(journal: Journal) -> object:
    return journal.rollouts(2, PROMPT, 0)


def read_scores(journal: Journal) -> object:
    return journal.scored(2, "answer", "a", range(4))


def read_prompt(journal: Journal) -> object:
    return journal.prompt(2, QUESTION, "answer")


@pytest.mark.parametrize(
    ("change", "read", "is_shown"),
    [
        ("completions SET conversation='no JSON'", read_rollouts, True),
        ("completions SET conversation='{\"turns\": 5}'", read_rollouts, True),
        ('completions SET conversation=\'{"turns": [["user", "a", 1, 9]], "score": null}\'', read_rollouts, True),
        ('completions SET conversation=\'{"turns": [], "score": {"new": 1}}\'', read_rollouts, True),
        ("completions SET conversation=x'ff00'", read_rollouts, True),
        ("completions SET ids='['", read_rollouts, False),
        ("completions SET logps='['", read_rollouts, False),
        ("completions SET kind='martian'", read_rollouts, False),
        ("completions SET terms='[[1]]'", read_scores, True),
        ("completions SET outcome='much'", read_scores, False),
        ("prompts SET messages='['", read_prompt, True),
    ],
)
def test_a_row_that_cannot_be_decoded_is_a_damaged_journal(
    change: str, read: Callable[[Journal], object], is_shown: bool, path: Path
) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(f"UPDATE {change}")
    with pytest.raises(FileProblem, match=r"is damaged \(a row of round 3 cannot be decoded") as caught:
        read(Journal(path, "s"))
    assert "&& mv " in str(caught.value.next)
    if is_shown:
        with pytest.raises(NodeError, match="a row of round 3 cannot be decoded"), shown.reading(path) as db:
            shown._of_round(db, "s", 2, shown.RolloutFilter(), None)


def test_an_intact_journal_is_read(path: Path) -> None:
    journal = Journal(path, "s")
    assert read_rollouts(journal) == {0: TALK}
    assert read_prompt(journal) is not None
    assert read_scores(journal) == [(0, Kind.POLICY, "text", SCORE)]
    with shown.reading(path) as db:
        assert len(shown._of_round(db, "s", 2, shown.RolloutFilter(), None)) == 1
