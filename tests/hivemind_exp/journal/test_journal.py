"""Completions in the journal are never requested again, and steps in it are never lost."""

from __future__ import annotations

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from hivemind_exp import formats
from hivemind_exp.errors import FileProblem, NewerFormat
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Evaluation, Manifest, TrainingRow
from hivemind_exp.rollouts.types import Completion, CompletionRequest, Group, Prompt, Rollout, Turn
from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.base import Question, RewardTerm, Score
from hivemind_exp.trainer.evaluation import pass_rates


def make_prompt(name: str = "a") -> Prompt:
    return Prompt(
        Question("t", "train", 0, 0, name, {}, name, name), "answer", ({"role": "user", "content": name},), (5,)
    )


def test_rollouts_are_read_back_unchanged(tmp_path: Path) -> None:
    local = Rollout(Kind.POLICY, "local", "x\x00y", (1, 2), False)
    served = Rollout(Kind.POLICY, "box", "z", (3,), True, lag=2, behaviour_logps=(-0.5,))
    unknown = Rollout(Kind.TEACHER, "openai", "é", (4,), False, lag=None)
    prompt = make_prompt()
    journal = Journal(tmp_path / "j", "swarm")
    journal.write_rollouts(3, 10, [Group(prompt, (local, served, unknown))])
    journal.close()
    assert Journal(tmp_path / "j", "swarm").rollouts(3, prompt, 10) == {0: local, 1: served, 2: unknown}


def test_lag_of_a_rollout_grows_with_the_steps(tmp_path: Path) -> None:
    journal, prompt = Journal(tmp_path / "j", "s"), make_prompt()
    journal.write_rollouts(0, 10, [Group(prompt, (Rollout(Kind.POLICY, "box", "z", (3,), True, lag=2),))])
    assert journal.rollouts(0, prompt, 13)[0].lag == 5


def test_first_write_of_a_completion_wins(tmp_path: Path) -> None:
    journal, prompt = Journal(tmp_path / "j", "s"), make_prompt()
    for text in ("first", "second"):
        journal.write_rollouts(0, 0, [Group(prompt, (Rollout(Kind.POLICY, "local", text, (1,), False),))])
    assert [rollout.text for rollout in journal.rollouts(0, prompt, 0).values()] == ["first"]


def test_swarms_rounds_and_prompts_are_kept_apart(tmp_path: Path) -> None:
    prompt = make_prompt()
    Journal(tmp_path / "j", "s").write_rollouts(0, 0, [Group(prompt, (Rollout(Kind.POLICY, "l", "x", (1,), False),))])
    assert Journal(tmp_path / "j", "other").rollouts(0, prompt, 0) == {}
    assert Journal(tmp_path / "j", "s").rollouts(1, prompt, 0) == {}
    assert Journal(tmp_path / "j", "s").rollouts(0, make_prompt("b"), 0) == {}


@pytest.mark.parametrize("later", ["bcd", "bc", "db", "abc", "cba"])
def test_a_round_that_is_asked_again_has_the_prompts_of_the_questions_chosen_last(tmp_path: Path, later: str) -> None:
    """A run that was killed asked the round early; the next one's settings choose other questions."""
    journal = Journal(tmp_path / "j", "s")
    for letters in ("abc", later):
        journal.write_prompts(1, [make_prompt(letter) for letter in letters], first=4)
    kept = journal._db.execute("SELECT position, question FROM prompts ORDER BY position").fetchall()
    assert kept[: len(later)] == [(n, make_prompt(letter).question.digest) for n, letter in enumerate(later, 4)]
    assert len({question for _, question in kept}) == len(kept)


def test_a_question_that_is_asked_again_keeps_its_prompt(tmp_path: Path) -> None:
    """Peers may have published more since, so that the prompt would quote them."""
    journal, prompt = Journal(tmp_path / "j", "s"), make_prompt()
    journal.write_prompts(1, [prompt])
    journal.write_prompts(1, [dataclasses.replace(prompt, messages=())])
    kept = journal.prompt(1, prompt.question, prompt.stage)
    assert kept is not None
    assert kept.messages == prompt.messages != ()


def test_scores_join_their_completions(tmp_path: Path) -> None:
    journal, prompt = Journal(tmp_path / "j", "s"), make_prompt()
    rollouts = tuple(Rollout(Kind.POLICY, "local", text, (1,), False) for text in "xy")
    group = Group(prompt, rollouts, (Score(1.0, True, "right"), Score(0.0, False, "no readable answer")))
    journal.write_prompts(0, [prompt])
    journal.write_rollouts(0, 0, [group])
    journal.write_scores(0, [group])
    rows = journal._db.execute("SELECT text, outcome, strict, why FROM completions ORDER BY idx").fetchall()
    assert rows == [("x", 1.0, 1, "right"), ("y", 0.0, 0, "no readable answer")]


def make_manifest(step: int) -> Manifest:
    return Manifest(step, step, step, 8, ())


def test_manifests_are_replayed_in_order_from_a_checkpoint_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", "s")
    for step in range(5):
        journal.commit(make_manifest(step))
    assert [m.step for m in journal.manifests(2)] == [2, 3, 4]
    journal.forget_manifests(3)
    assert [m.step for m in journal.manifests(3)] == [3, 4]
    assert list(journal.manifests(5)) == []


def test_steps_after_a_missing_one_and_their_results_are_deleted(tmp_path: Path) -> None:
    journal, prompt = Journal(tmp_path / "j", "s"), make_prompt()
    for step in (0, 2):
        journal.commit(make_manifest(step))
        journal.write_evaluation(Evaluation(step, 0.5, 8, {}))
    journal.write_prompts(2, [prompt])
    own = Rollout(Kind.POLICY, "local", "own", (1,), False, lag=0)
    journal.write_rollouts(2, 2, [Group(prompt, (own,), ())])
    order = CompletionRequest(2, "answer", prompt.question.digest, prompt.messages, (1,), 2)
    journal.write_completions(order, [Completion(1, Kind.TEACHER, "openai", "m", "teacher's", False, 2, 0.01)])
    assert [m.step for m in journal.manifests(0)] == [0]
    assert journal.steps() == 3
    journal.rewind(1, 1)
    assert journal.steps() == 1
    assert journal.stage_run(2) is None
    assert [evaluation.round for evaluation in journal.evaluations()] == [0]
    kept = journal.rollouts(2, prompt, 1, lambda *_: (1,))
    assert {place: (rollout.text, rollout.lag) for place, rollout in kept.items()} == {1: ("teacher's", 0)}
    journal.commit(make_manifest(1))
    assert [m.step for m in journal.manifests(0)] == [0, 1]


def test_evaluations_are_saved_and_averaged(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", "s")
    journal.write_evaluation(Evaluation(0, 0.25, 8, {"a": 0.5, "b": 0.0}))
    journal.write_evaluation(Evaluation(10, 0.5, 8, {"a": 1.0}))
    found = Journal(tmp_path / "j", "s").evaluations()
    assert [e.round for e in found] == [0, 10]
    assert pass_rates(found) == {"a": 0.75, "b": 0.0}


def test_invalid_journal_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"not a database, but long enough to be read as one" * 100)
    with pytest.raises(FileProblem, match="is damaged") as caught:
        Journal(tmp_path / "j", "s")
    subprocess.run(caught.value.next or "false", shell=True, check=True)
    assert Journal(tmp_path / "j", "s").steps() == 0


def test_opening_a_damaged_journal_is_an_error(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", "s")
    row = TrainingRow(Kind.POLICY, "local", "t", 0, (1,) * 2000, (2,) * 2000, "x", 1.0, 1.0, 0)
    for step in range(20):
        journal.commit(dataclasses.replace(make_manifest(step), rows=(row,)))
    journal.close()
    with (tmp_path / "j").open("r+b") as file:
        file.seek(8 * 4096)
        file.write(b"\xff" * 4096 * 10)
    with pytest.raises(FileProblem, match="malformed"):
        Journal(tmp_path / "j", "s")


def test_a_damaged_manifest_is_reported(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", "s")
    journal.commit(make_manifest(0))
    journal._db.execute("UPDATE manifests SET body=x'93c1'")
    with pytest.raises(FileProblem, match="step 1"):
        list(journal.manifests(0))


@pytest.mark.parametrize("number", [0, formats.FORMAT])
def test_a_journal_of_this_or_an_older_version_is_opened(tmp_path: Path, number: int) -> None:
    journal = Journal(tmp_path / "j", "s")
    journal.commit(make_manifest(0))
    journal._db.execute(f"PRAGMA user_version={number}")
    journal.close()
    again = Journal(tmp_path / "j", "s")
    assert again.steps() == 1
    assert again._db.execute("PRAGMA user_version").fetchone() == (formats.FORMAT,)


def test_a_newer_journal_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", "s")
    journal._db.execute(f"PRAGMA user_version={formats.FORMAT + 1}")
    journal.close()
    before = (tmp_path / "j").read_bytes()
    with pytest.raises(NewerFormat, match="newer version"):
        Journal(tmp_path / "j", "s")
    assert (tmp_path / "j").read_bytes() == before


@pytest.mark.slow
def test_kill_9_leaves_only_whole_entries(tmp_path: Path) -> None:
    writer = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from hivemind_exp.journal.journal import Journal
        from hivemind_exp.journal.records import Manifest, TrainingRow
        from hivemind_exp.source_kinds import Kind
        journal = Journal(Path(sys.argv[1]), "s")
        row = TrainingRow(Kind.POLICY, "local", "t", 0, (1,) * 2000, (2,) * 2000, "x" * 20000, 1.0, 1.0, 0)
        for step in range(100000):
            journal.commit(Manifest(step, step, 0, 8, (row,) * 8))
            print(step, flush=True)
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", writer, str(tmp_path / "j")], stdout=subprocess.PIPE, cwd=Path.cwd()
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(20)]
        os.kill(process.pid, signal.SIGKILL)
        lines += process.stdout.readlines()
    acknowledged = [int(line) for line in lines if line.endswith(b"\n")]
    steps = [m.step for m in Journal(tmp_path / "j", "s").manifests(0)]
    assert acknowledged == list(range(len(acknowledged)))
    assert len(acknowledged) >= 20
    assert steps == list(range(len(steps)))
    assert len(steps) >= len(acknowledged)
    assert all(len(m.rows) == 8 for m in Journal(tmp_path / "j", "s").manifests(0))


@pytest.mark.parametrize("bad", [{"ids": ()}, {"ids": (1, 2), "behaviour_logps": (-1.0,)}])
def test_invalid_rollouts_cannot_be_created(bad: dict[str, tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"token|log-prob"):
        Rollout(**{"kind": Kind.POLICY, "source": "local", "text": "x", "truncated": False, **bad})  # type: ignore[arg-type]


def test_a_conversation_is_read_back_with_its_verdict(tmp_path: Path) -> None:
    turns = (Turn("assistant", "a", 2), Turn("user", "b\x00", 3), Turn("assistant", "c", 1))
    score = Score(0.5, False, "partly", (RewardTerm("right", 0.5, None, ""), RewardTerm("fast", 0.1, 1.0, "slow")))
    talk = Rollout(Kind.POLICY, "local", "text", (1, 2, 3, 4, 5, 6), True, turns=turns, score=score)
    left_out = dataclasses.replace(talk, score=Score(0.0, False, "lost", judged=False))
    prompt = make_prompt()
    journal = Journal(tmp_path / "j", "swarm")
    journal.write_rollouts(0, 1, [Group(prompt, (talk, left_out))])
    journal.close()
    with sqlite3.connect(tmp_path / "j") as db:
        assert db.execute("SELECT COUNT(*) FROM completions WHERE conversation IS NOT NULL").fetchone() == (2,)
    assert Journal(tmp_path / "j", "swarm").rollouts(0, prompt, 1) == {0: talk, 1: left_out}
