"""Completions from an API that teach nothing are reported after one round. After three, no more are bought."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from hivemind_exp.config import Config
from hivemind_exp.journal.records import TrainingRow
from hivemind_exp.rollouts.types import Group, Prompt, Rollout
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.source import Source
from hivemind_exp.sources.usefulness import COMPLETIONS_IN_VAIN, ROUNDS_IN_VAIN, UsefulnessCheck
from hivemind_exp.tasks.base import Question, Score
from tests.support.recorded_events import Events

QUESTION = Question("t", "train", 0, 0, "?", {}, "digest", "?")
RIGHT, UNTAGGED, WRONG = Score(1.0, True, "correct"), Score(1.0, False, "correct"), Score(0.0, False, "wrong")


@dataclass
class Remote(Source):
    """Records the providers that are set aside."""

    kind: Kind = Kind.TEACHER
    aside: list[tuple[str, str, str]] = field(default_factory=list)

    def set_aside(self, provider: str, why: str, command: str) -> None:
        self.aside.append((provider, why, command))


def group(score: Score, count: int = 32, *, truncated: bool = False, kind: Kind = Kind.TEACHER) -> Group:
    row = Rollout(kind, "box", "Let me\nthink " * 40, (1,), truncated, model="m")
    return Group(Prompt(QUESTION, "answer", (), ()), (row,) * count, scores=(score,) * count)


def row(advantage: float) -> TrainingRow:
    return TrainingRow(Kind.TEACHER, "box:m", "t", 0, (), (1,), "", 1.0, advantage, 0, None)


def check(kind: Kind = Kind.TEACHER, **offload: Any) -> tuple[UsefulnessCheck, Remote, Events]:
    remote, events = Remote(kind=kind), Events()
    return UsefulnessCheck(Config.model_validate({"offload": offload}), remote, events), remote, events


@pytest.mark.parametrize(
    ("one", "reason", "advice", "command"),
    [
        (
            group(WRONG, truncated=True),
            "cut at the length limit",
            "Raise offload.max_tokens (now 1024)",
            "swarmctl run --set offload.max_tokens=2048",
        ),
        (group(WRONG), "wrong", "Choose another model", "swarmctl models box"),
        (group(UNTAGGED), "correct but not in the requested format", "Choose another model", "swarmctl models box"),
        (
            group(RIGHT),
            "no better than the node's own",
            "Set offload.when=failed",
            "swarmctl run --set offload.when=failed",
        ),
    ],
)
def test_completions_that_teach_nothing_are_reported_and_later_no_longer_bought(
    one: Group, reason: str, advice: str, command: str
) -> None:
    usefulness, remote, events = check()
    usefulness.count(0, [one], [row(0.0)])
    (said,) = events.of("warning")
    assert (said["code"], said["provider"]) == ("taught_nothing", "box")
    start = f'32 of 32 completions from box:m in round 1 are {reason}, for example "Let me think Let me think'
    assert said["message"].startswith(start)
    assert '…"; none of them teaches this node anything.' in said["message"]
    assert advice in said["message"]
    usefulness.count(1, [one], [])
    assert remote.aside == []
    usefulness.count(2, [one], [])
    ((provider, why, following),) = remote.aside
    assert (provider, following) == ("box", command)
    assert why == f"none of its last 96 completions, in 3 rounds, taught this node anything; most are {reason}"
    assert len(events.of("warning")) == 1


def test_a_server_of_the_nodes_own_weights_is_not_blamed_for_what_this_machine_generated() -> None:
    usefulness, remote, events = check(Kind.POLICY)
    local = group(WRONG, kind=Kind.POLICY)
    local = replace(local, rollouts=tuple(replace(each, source="local") for each in local.rollouts))
    for round_ in range(2 * ROUNDS_IN_VAIN):
        usefulness.count(round_, [local], [])
    assert (remote.aside, events.all) == ([], [])
    usefulness.count(0, [group(WRONG, kind=Kind.POLICY)], [])
    assert [event["provider"] for event in events.of("warning")] == ["box"]


def test_one_useful_row_restarts_the_count() -> None:
    usefulness, remote, events = check()
    for round_ in range(2 * ROUNDS_IN_VAIN):
        usefulness.count(round_, [group(WRONG)], [row(float(round_ % ROUNDS_IN_VAIN == 1))])
    assert remote.aside == []
    assert len(events.of("warning")) == 1


def test_few_completions_need_more_rounds() -> None:
    usefulness, remote, _ = check()
    for round_ in range(COMPLETIONS_IN_VAIN - 1):
        usefulness.count(round_, [group(WRONG, 1)], [])
    assert remote.aside == []
    usefulness.count(COMPLETIONS_IN_VAIN, [group(WRONG, 1)], [])
    assert len(remote.aside) == 1


def test_a_few_wrong_completions_are_not_reported() -> None:
    usefulness, _, events = check()
    usefulness.count(0, [group(WRONG, 7)], [])
    assert events.all == []
    usefulness.count(1, [group(WRONG, 1)], [])
    assert len(events.of("warning")) == 1


def test_faults_of_form_are_reported_even_if_some_completions_teach() -> None:
    usefulness, remote, events = check()
    usefulness.count(0, [group(WRONG, 20, truncated=True), group(RIGHT, 4)], [row(1.0)])
    usefulness.count(1, [group(WRONG, 20), group(RIGHT, 4)], [row(1.0)])
    (said,) = events.of("warning")
    assert said["message"].startswith("20 of 24 completions from box:m in round 1 are cut at the length limit")
    assert remote.aside == []


def test_a_relay_counts_correct_completions() -> None:
    usefulness, remote, events = check(Kind.RELAY)
    for round_ in range(4):
        usefulness.count(round_, [group(RIGHT, 1, kind=Kind.RELAY), group(WRONG, kind=Kind.RELAY)], ())
    assert (remote.aside, events.all) == ([], [])
    for round_ in range(3):
        usefulness.count(round_, [group(WRONG, kind=Kind.RELAY)], ())
    ((_, why, _),) = remote.aside
    assert why.startswith("none of its last ")
    assert "in 3 rounds, was correct; most are " in why
    assert events.of("warning")[0]["message"].count("none of them is correct. ") == 1


def test_own_weights_served_elsewhere_need_groups_with_different_rewards() -> None:
    usefulness, _, events = check(Kind.POLICY_TEXT)
    usefulness.count(0, [group(WRONG, kind=Kind.POLICY_TEXT)], [])
    assert "Choose tasks that the model sometimes solves" in events.of("warning")[0]["message"]


def test_this_machines_completions_do_not_count() -> None:
    usefulness, remote, events = check()
    for round_ in range(4):
        usefulness.count(round_, [group(WRONG, kind=Kind.POLICY)], [])
    assert (remote.aside, events.all) == ([], [])
