"""Old rounds are deleted from the journal, so that its size is limited. Their cost stays recorded."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from hivemind_exp.journal import pruning
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Manifest
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.spending import spent_so_far
from hivemind_exp.rollouts.types import Completion, CompletionRequest, Group, Prompt, Rollout
from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.base import Question

TEXT = "x" * 5000
ROUND_BYTES = 4 * len(TEXT)
"""The completions of a round are at least this long."""


def play(journal: Journal, round_: int) -> None:
    """Write a round of four completions. Another model wrote one of them, for 0.01 USD."""
    question = Question("t", "train", 0, 0, str(round_), {}, str(round_), str(round_))
    prompt = Prompt(question, "answer", ({"role": "user", "content": "?"},), (5,))
    journal.write_prompts(round_, [prompt])
    own = tuple(Rollout(Kind.POLICY, "local", TEXT, (1,), False, lag=0) for _ in range(3))
    journal.write_rollouts(round_, round_, [Group(prompt, own)])
    order = CompletionRequest(round_, "answer", question.digest, prompt.messages, (3,), round_)
    journal.write_completions(order, [Completion(3, Kind.TEACHER, "box", "m", TEXT, False, round_, 0.01)])
    journal.write_lost(order, [4], "lost")
    journal.commit(Manifest(round_, round_, 0, 1, ()))


def rounds(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as db:
        return [round_ for (round_,) in db.execute("SELECT DISTINCT round FROM completions ORDER BY round")]


@pytest.mark.slow
def test_the_size_of_300_rounds_is_limited(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    journal = Journal(files.journal, "s")
    for round_ in range(300):
        play(journal, round_)
        if round_ % 10 == 9:
            journal.prune(journal.first_round(round_ + 1 - 20, round_ - 5))
    journal.close()
    assert rounds(files.journal) == list(range(280, 300))
    assert files.journal.stat().st_size < 2 * 30 * ROUND_BYTES < 300 * ROUND_BYTES
    assert spent_so_far(files) == pytest.approx(3.0)


def test_rounds_needed_by_a_checkpoint_are_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", "s")
    for round_ in range(10):
        play(journal, round_)
    assert journal.first_round(9, 4) == 4
    assert journal.first_round(2, 4) == 2
    assert Journal(tmp_path / "empty", "s").first_round(1, 1) == 0


def test_an_old_journal_shrinks_over_several_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "_ROUNDS_AT_ONCE", 5)
    monkeypatch.setattr(pruning, "_MOST_ROUNDS", 20)
    monkeypatch.setattr(pruning, "_WORTH_BYTES", 1 << 16)
    path = tmp_path / "j"
    journal = Journal(path, "s")
    for round_ in range(50):
        play(journal, round_)
    journal.prune(45)
    assert rounds(path) == list(range(20, 50))
    for _ in range(2):
        journal.prune(45)
    journal.close()
    assert rounds(path) == list(range(45, 50))
    assert path.stat().st_size < 15 * ROUND_BYTES


def test_another_swarms_rounds_are_kept(tmp_path: Path) -> None:
    before, after = Journal(tmp_path / "j", "a"), Journal(tmp_path / "j", "b")
    play(before, 3)
    after.prune(100)
    assert rounds(tmp_path / "j") == [3]
