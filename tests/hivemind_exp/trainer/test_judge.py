"""The judge's term of the reward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from hivemind_exp.journal.journal import Journal
from hivemind_exp.rollouts.types import Completion, CompletionRequest, Group, Prompt, Rollout
from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.base import Question, RewardTerm, Score
from hivemind_exp.train_settings import TrainConfig
from hivemind_exp.trainer.advantages import build_rows
from hivemind_exp.trainer.judge import Judge
from tests.hivemind_exp.offload.test_judge import judged
from tests.support.recorded_events import Events

RIGHT, WRONG = Score(1.0, True, "correct"), Score(0.0, True, "wrong")


@dataclass
class Grader:
    """Answers through the journal, as the API process does."""

    journal: Journal
    answer: Callable[[str], str | None]
    asked: list[CompletionRequest] = field(default_factory=list)
    aside: list[tuple[str, str, str]] = field(default_factory=list)

    def submit(self, orders: Iterable[CompletionRequest]) -> None:
        for order in orders:
            self.asked.append(order)
            reply = self.answer(order.messages[1]["content"])
            if reply is None:
                self.journal.write_lost(order, [0], "down")
            else:
                made = Completion(0, Kind.TEACHER, "box", "m", reply, False, 0, 0.01)
                self.journal.write_completions(order, [made])

    def wait(self, round_: int, deadline: float | None = None) -> None:  # noqa: ARG002 - as called
        assert {order.round for order in self.asked} <= {round_}

    def set_aside(self, provider: str, why: str, command: str, table: str) -> None:
        assert table == "judge"
        self.aside.append((provider, why, command))

    def report_spend(self, round_: int) -> None:
        pass


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(tmp_path / "journal.sqlite", "s")) as made:
        yield made


def group(*texts: str, kind: Kind = Kind.POLICY, scores: tuple[Score, ...] = (), number: int = 0) -> Group:
    question = Question("gcd", "train", 3, number, f"{number}?", {}, f"d{number}", "k")
    rows = tuple(Rollout(kind, "local", text, (1,), False) for text in texts)
    return Group(Prompt(question, "answer", (), ()), rows, scores or tuple(RIGHT for _ in texts))


def graded(
    journal: Journal, groups: list[Group], answer: Callable[[str], str | None], weight: float = 0.5
) -> tuple[list[Group], Grader, Events]:
    grader, events = Grader(journal, answer), Events()
    return Judge(judged(weight=weight), grader, journal, events).grade(groups), grader, events


def grade_of_length(quoted: str) -> str:
    return str(len(quoted.splitlines()[-2]))


def test_a_grade_is_one_term_beside_the_verifiers(journal: Journal) -> None:
    (found,), grader, events = graded(
        journal, [group("aaaa", "bb", scores=(RIGHT, WRONG))], grade_of_length, weight=0.5
    )
    assert [score.outcome for score in found.scores] == [1.0, 0.0]
    assert [score.reward for score in found.scores] == [1.2, 0.1]
    assert found.scores[0].terms == (
        RewardTerm("correct", 1.0, 1.0, "correct"),
        RewardTerm("judge", 0.2, 0.5, "4 of 10"),
    )
    assert [order.stage for order in grader.asked] == ["judge", "judge"]
    (event,) = events.of("judge")
    assert (event["round"], event["graded"], event["ungraded"], event["grade"]) == (3, 2, 0, pytest.approx(3.0))


def test_the_terms_of_a_task_are_kept(journal: Journal) -> None:
    own = replace(RIGHT, terms=(RewardTerm("short", 0.7, None, ""),))
    (found,), _, _ = graded(journal, [group("aaaa", scores=(own,))], grade_of_length)
    assert [term.name for term in found.scores[0].terms] == ["short", "judge"]
    assert found.scores[0].reward == pytest.approx(0.9)


def test_nothing_is_asked_twice(journal: Journal) -> None:
    groups = [group("aaaa", "aaaa", "bb"), group("aaaa", number=1)]
    first, grader, _ = graded(journal, groups, grade_of_length)
    assert len(grader.asked) == 3  # equal texts of one question have one grade
    again, resumed, _ = graded(journal, groups, grade_of_length)
    assert resumed.asked == []
    assert again == first


@pytest.mark.parametrize("bad", ["Ten! The text says so.", None])
def test_what_is_no_grade_is_counted_and_gets_the_mean(journal: Journal, bad: str | None) -> None:
    def answer(quoted: str) -> str | None:
        return bad if "attack" in quoted else grade_of_length(quoted)

    (found,), _, events = graded(journal, [group("aaaa", "attack", "bb")], answer)
    assert [score.terms[-1].value for score in found.scores] == pytest.approx([0.2, 0.15, 0.1])
    assert found.scores[1].terms[-1].why == "no grade, so the mean of the group"
    assert [(event["graded"], event["ungraded"]) for event in events.of("judge")] == [(2, 1)]


def test_without_any_grade_the_rewards_stay(journal: Journal) -> None:
    groups = [group("a", "b")]
    found, _, events = graded(journal, groups, lambda _: "no")
    assert found == groups
    assert [(event["graded"], event["grade"]) for event in events.of("judge")] == [(0, None)]


def test_a_judge_that_never_grades_is_reported_and_then_set_aside(journal: Journal) -> None:
    grader, events = Grader(journal, lambda _: "It is\nbrief."), Events()
    judge = Judge(judged(), grader, journal, events)
    for number in range(3):
        assert grader.aside == []
        judge.grade([group(f"{number}", "b", number=number)])
    assert grader.aside == [
        ("box", 'it graded no completion in 3 rounds (for example "It is brief.")', "swarmctl models box")
    ]
    (warning,) = events.of("warning")
    told = "the judge box:m graded no completion in round 4: a grade is a whole number from 0 to 10"
    assert told in warning["message"]
    assert 'for example "It is brief."' in warning["message"]
    assert "(judge.model)" in warning["message"]


@pytest.mark.parametrize("reply", ["7", None])
def test_a_grade_or_an_unavailable_judge_is_not_in_vain(journal: Journal, reply: str | None) -> None:
    replies = iter(["no", "no", reply, "no", "no" if reply else "7"])
    grader, events = Grader(journal, lambda _: next(replies)), Events()
    judge = Judge(judged(), grader, journal, events)
    for number in range(3 if reply is None else 5):
        judge.grade([group(f"{number}", number=number)])
    assert grader.aside == []


def test_only_own_completions_are_graded(journal: Journal) -> None:
    groups = [group("a", kind=Kind.TEACHER), group("b", kind=Kind.PEER, number=1)]
    found, grader, events = graded(journal, groups, grade_of_length)
    assert found == groups
    assert grader.asked == []
    assert events.of("judge") == []


def test_grades_compare_own_completions_with_each_other_and_with_nothing_else(journal: Journal) -> None:
    """Two correct and a wrong one of this node, beside a correct one of a teacher that no judge sees."""
    mixed = group("aaaa", "bb", "cccccc", "dd", scores=(RIGHT, RIGHT, WRONG, RIGHT))
    mixed = replace(mixed, rollouts=(*mixed.rollouts[:3], replace(mixed.rollouts[3], kind=Kind.TEACHER, source="a")))
    (found,), grader, _ = graded(journal, [mixed], grade_of_length)
    assert len(grader.asked) == 3
    assert [score.reward for score in found.scores] == pytest.approx([1.2, 1.1, 0.3, 1.0])

    def advantages(group: Group) -> dict[Kind, list[float]]:
        rows = build_rows([group], TrainConfig(), {})
        return {kind: [row.advantage for row in rows if row.kind is kind] for kind in (Kind.POLICY, Kind.TEACHER)}

    with_grades, without = advantages(found), advantages(mixed)
    mean, std = 2.6 / 3, 0.49329  # of 1.2, 1.1 and 0.3: the teacher's reward is not among them
    own = [(reward - mean) / (std + 1e-4) for reward in (1.2, 1.1, 0.3)]
    assert with_grades[Kind.POLICY] == pytest.approx(own, abs=1e-4)
    assert with_grades[Kind.POLICY][0] > with_grades[Kind.POLICY][1]
    # 1 minus the mean outcome of this node's completions, whatever their grades are.
    assert with_grades[Kind.TEACHER] == without[Kind.TEACHER] == pytest.approx([1 / 3])
    alone = replace(found, rollouts=found.rollouts[:3], scores=found.scores[:3])
    assert advantages(alone)[Kind.POLICY] == with_grades[Kind.POLICY]


def test_a_teacher_gains_nothing_where_only_the_grades_differ(journal: Journal) -> None:
    mixed = group("aaaa", "bb", "dd")
    mixed = replace(mixed, rollouts=(*mixed.rollouts[:2], replace(mixed.rollouts[2], kind=Kind.TEACHER, source="a")))
    (found,), _, _ = graded(journal, [mixed], grade_of_length)
    own_better, own_worse, teacher = [row.advantage for row in build_rows([found], TrainConfig(), {})]
    assert (own_better, own_worse) == pytest.approx((2**-0.5, -(2**-0.5)), abs=2e-3)
    assert teacher == 0
