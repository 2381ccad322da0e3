"""Hostile answers, passed to every verifier through real workers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import TaskConfig
from hivemind_exp.tasks.base import FULL_CREDIT, Question, TaskSpec
from hivemind_exp.tasks.families.reasoning_gym import build
from hivemind_exp.tasks.families.reasoning_gym_catalogue import GENERATORS
from hivemind_exp.tasks.mixture import LONGEST_ANSWER, Mixture
from tests.support.hostile.hostile_completions import BOMBS, ODDITIES, code_that_touches

pytestmark = pytest.mark.slow

MATHEMATICS = "jsonl"


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixture]:
    """Return a mixture of every generator and a file whose answers are compared mathematically."""
    file = tmp_path_factory.mktemp("data") / "sums.jsonl"
    file.write_text("".join(f'{{"question": "{n} + 1?", "answer": {n + 1}}}\n' for n in range(7000, 7010)))
    configs = [TaskConfig(name=name) for name in sorted(GENERATORS)]
    configs.append(TaskConfig(name=MATHEMATICS, path=str(file), check="math", weight=3))
    made = Mixture(configs, charter=b"hostile", secret=b"s", heldout=0, partial_credit=True, verifiers=2)
    yield made
    made.close()


@pytest.fixture(scope="module")
def questions() -> dict[str, Question]:
    """Return one question per task: out of three, the one with the longest answer, which is the hardest to guess."""
    found = {MATHEMATICS: question(MATHEMATICS, "7007 + 1?", {"answer": "7008"})}
    for name in sorted(GENERATORS):
        task = build(TaskSpec(name, "hivemind_exp.tasks.families.reasoning_gym", name))
        task.prepare("make")
        items = [task.make(seed) for seed in range(3)]
        found[name] = question(name, *max(items, key=lambda item: len(str(item[1]["answer"]))))
    return found


def question(name: str, text: str, entry: dict[str, Any]) -> Question:
    return Question(name, "train", 0, 0, text, entry, "", "")


def honest(asked: Question) -> str:
    """Return a correct answer."""
    if asked.task != "propositional_logic":
        return str(asked.entry["answer"])
    premises = asked.entry["premises"]
    assert isinstance(premises, list)
    return " ∧ ".join(f"({premise})" for premise in premises)


def credits(mixture: Mixture, asked: Question, answers: list[str]) -> list[float]:
    completions = [f"<answer>{answer}</answer>" for answer in answers]
    return [score.outcome for score in mixture.score([asked] * len(answers), completions)]


@pytest.mark.parametrize("name", [*sorted(GENERATORS), MATHEMATICS])
def test_no_hostile_answer_is_executed_or_counts_as_right(
    name: str, mixture: Mixture, questions: dict[str, Question], tmp_path: Path
) -> None:
    asked, touched = questions[name], tmp_path / "touched"
    right = honest(asked)
    attacks = [*code_that_touches(touched), *BOMBS, asked.text, repr(asked.entry)]
    attacks += [answer for answer in ODDITIES if answer.strip().casefold() != right.strip().casefold()]
    found = credits(mixture, asked, attacks)
    assert [attack[:80] for attack, credit in zip(attacks, found, strict=True) if credit >= FULL_CREDIT] == []
    assert not touched.exists()
    assert credits(mixture, asked, [right]) == [1.0], "the worker still runs or was replaced"


def test_an_answer_that_is_too_long_is_not_verified(mixture: Mixture, questions: dict[str, Question]) -> None:
    completions = [f"<answer>{'7' * length}</answer>" for length in (LONGEST_ANSWER, LONGEST_ANSWER + 1)]
    whys = [score.why for score in mixture.score([questions["spell_backward"]] * 2, completions)]
    assert whys == ["wrong", "answer too long"]


def test_the_attacks_work_when_evaluated(tmp_path: Path) -> None:
    """Check that the attacks do run when something evaluates them. Otherwise the tests above would prove nothing."""
    for number, attack in enumerate(code_that_touches(tmp_path / "x")[:4]):
        touched = tmp_path / str(number)
        subprocess.run(["python3", "-c", attack.replace(str(tmp_path / "x"), str(touched))], check=True)
        assert touched.exists()
