"""Hints that teach nothing are reported after one round. After three, no more are bought."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hivemind_exp.config import Config
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import TrainingRow
from hivemind_exp.offload.hints import GIVES_AWAY, STAGE, TOO_LONG
from hivemind_exp.rollouts.types import Completion, CompletionRequest, Group, Prompt, Rollout
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.hint_usefulness import HintCheck
from hivemind_exp.tasks.base import Question, Score
from tests.hivemind_exp.sources.test_usefulness import Remote
from tests.support.recorded_events import Events

RIGHT, LOOSE, WRONG = Score(1.0, True, "correct"), Score(1.0, False, "correct"), Score(0.0, False, "wrong")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(tmp_path / "journal.sqlite", "s")) as made:
        yield made


def group(
    journal: Journal,
    round_: int,
    number: int,
    *scores: Score,
    text: str = "7",
    refused: str | None = None,
    truncated: bool = False,
) -> Group:
    """Write a hint to the journal. Returns the group with its hinted completions."""
    question = Question("t", "train", round_, number, "?", {}, f"{round_}/{number}", "?")
    order = CompletionRequest(round_, STAGE, question.digest, (), (0,), version=0)
    journal.write_completions(order, [Completion(0, Kind.TEACHER, "box", "m", "Try\nharder.", False, 0, 0.01)])
    if refused is not None:
        journal.write_lost(order, [0], refused)
    own = Rollout(Kind.POLICY, "local", "6", (1,), truncated=False)
    hinted = Rollout(Kind.HINTED, "local", text, (1,), truncated)
    return Group(Prompt(question, "answer", (), (round_, number)), (own, *[hinted] * len(scores)), (WRONG, *scores))


def row(of: Group) -> TrainingRow:
    return TrainingRow(Kind.HINTED, "local", "t", 0, of.prompt.ids, (1,), "7", 1.0, 1.0, 0)


def check(journal: Journal) -> tuple[HintCheck, Remote, Events]:
    remote, events = Remote(kind=Kind.HINTED), Events()
    return HintCheck(Config.model_validate({}), remote, events, journal=journal), remote, events


@pytest.mark.parametrize(
    ("scores", "how", "reason", "advice", "command"),
    [
        ((WRONG,), {}, "of no help: this node's answers with them are wrong", "may be too small", "models box"),
        ((WRONG,), {"truncated": True}, "are cut at the length limit", "512)", "completion_tokens=1024"),
        ((LOOSE, WRONG), {}, "are not in the requested format", "offload.teach=answers", "offload.teach=answers"),
        ((RIGHT,), {"text": "the hint says 7"}, "correct answers mention them", "offload.teach", "teach=answers"),
        ((), {"refused": GIVES_AWAY}, "refused for giving the answer away", "offload.model", "teach=answers"),
        ((), {"refused": TOO_LONG}, "too long for the node's prompts", "(now 1024)", "max_prompt_tokens=2048"),
    ],
)
def test_useless_hints_are_reported_and_later_no_longer_bought(  # noqa: PLR0917 - one case
    journal: Journal, scores: tuple[Score, ...], how: dict[str, str], reason: str, advice: str, command: str
) -> None:
    usefulness, remote, events = check(journal)
    for round_ in range(3):
        assert remote.aside == []
        groups = [group(journal, round_, number, *scores, **how) for number in range(8)]  # type: ignore[arg-type]
        usefulness.count(round_, groups, [])
        (said,) = events.of("warning")
    assert (said["code"], said["provider"]) == ("taught_nothing", "box")
    assert said["message"].startswith("8 of 8 hints from box:m in round 1 are ")
    assert reason in said["message"]
    assert ', for example "Try harder."; none of them teaches this node anything. ' in said["message"]
    assert advice in said["message"]
    ((provider, why, next_),) = remote.aside
    assert (provider, next_.endswith(command)) == ("box", True)
    assert why.startswith("none of its last 24 hints, in 3 rounds, taught this node anything; most are ")


def test_a_hint_that_taught_something_starts_the_count_again(journal: Journal) -> None:
    usefulness, remote, events = check(journal)
    for round_ in range(6):
        groups = [group(journal, round_, number, RIGHT, WRONG) for number in range(12)]
        usefulness.count(round_, groups, [row(groups[3])] if round_ == 2 else [])
    assert len(remote.aside) == 1  # after rounds 4 to 6
    assert [event["taught"] for event in events.of("hints")] == [0, 0, 1, 0, 0, 0]
    assert {(event["hints"], event["refused"], event["solved"]) for event in events.of("hints")} == {(12, 0, 12)}


def test_refused_hints_are_reported_even_if_others_teach(journal: Journal) -> None:
    usefulness, _, events = check(journal)
    groups = [group(journal, 0, number, refused=GIVES_AWAY) for number in range(6)]
    groups += [group(journal, 0, number, RIGHT) for number in range(6, 8)]
    usefulness.count(0, groups, [row(groups[-1])])
    (said,) = events.of("warning")
    assert said["message"].startswith("6 of 8 hints from box:m in round 1 are refused for giving the answer away")
    assert "none of them" not in said["message"]
    (event,) = events.of("hints")
    assert (event["hints"], event["refused"], event["solved"], event["taught"]) == (8, 6, 2, 1)


def test_a_round_without_hints_says_nothing(journal: Journal) -> None:
    usefulness, _, events = check(journal)
    usefulness.count(0, [], [])
    assert events.all == []
