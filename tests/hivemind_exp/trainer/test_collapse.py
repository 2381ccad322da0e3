"""A node whose completions earn nothing warns once, with the most frequent reason and the setting that helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import TaskConfig
from hivemind_exp.journal.records import Evaluation
from hivemind_exp.rollouts.types import Group, Prompt, Rollout, Turn
from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.base import NO_ANSWER, Question, Score
from hivemind_exp.trainer import collapse
from hivemind_exp.trainer.collapse import CollapseCheck
from tests.support.nodes import Events, make_config, run

PROMPT = Prompt(Question("t", "train", 0, 0, "q", {}, "d", "k"), "answer", (), (1,))


def check() -> tuple[CollapseCheck, Events]:
    events = Events()
    return CollapseCheck(make_config(train={"learning_rate": 1e-4}), events), events


def group(size: int, why: str = "wrong", *, outcome: float = 0.0, kind: Kind = Kind.POLICY, cut: bool = False) -> Group:
    rows = tuple(Rollout(kind, "local", "text", (7,), cut) for _ in range(size))
    return Group(PROMPT, rows, tuple(Score(outcome, False, why) for _ in range(size)))


def messages(events: Events) -> list[str]:
    return [event["message"] for event in events.of("warning")]


def test_rare_rewards_do_not_repeat_the_warning_for_each_short_series() -> None:
    checked, events = check()
    lengths = (10, 10, 19, 20, 39)
    told = []
    for length in lengths:
        for _ in range(length):
            checked.count([group(100)])
        told.append(len(messages(events)))
        checked.count([group(99), group(1, outcome=1.0)])
    assert told == [1, 1, 2, 2, 3]
    assert "learning_rate" not in messages(events)[-1]  # this model was never able to answer
    checked.count([group(50), group(50, outcome=1.0)])
    for _ in range(10):
        checked.count([group(100)])
    assert len(messages(events)) == 4


@pytest.mark.parametrize(
    ("why", "cut", "told"),
    [
        (
            "wrong",
            True,
            "were wrong. Start with easier questions (game.curriculum=true), choose an easier task (tasks), choose a "
            "more capable model (model.name) or learn from a teacher (offload.provider)",
        ),
        (NO_ANSWER, True, "were cut at the length limit. Raise generation.max_completion_tokens (now 8)"),
        (
            NO_ANSWER,
            False,
            "were without a readable answer. Choose a model that follows instructions (model.name), reward the format "
            "(game.format_reward=0.2) or let a teacher show it (offload.provider)",
        ),
    ],
)
def test_rounds_without_a_reward_are_reported_once_with_the_most_frequent_reason(
    why: str, cut: bool, told: str
) -> None:
    checked, events = check()
    for _ in range(9):
        checked.count([group(100, why, cut=cut), group(28, "answer too long")])
        if messages(events):
            break
    assert messages(events)[0].startswith("no reward in the last 4 rounds (512 completions); 400 of 512 completions")
    assert told in messages(events)[0]
    for _ in range(200):
        checked.count([group(128)])
    assert len(messages(events)) == 1


@pytest.mark.parametrize(
    ("why", "section", "left_out"),
    [
        ("wrong", {"game": {"curriculum": True}}, "curriculum"),
        ("wrong", {"swarm": {"join": "swarm1:" + "0" * 64}}, "curriculum"),
        (NO_ANSWER, {"game": {"format_reward": 0.1}}, "format_reward"),
        (NO_ANSWER, {"train": {"teacher_loss": "luffy"}}, "format_reward"),
        (NO_ANSWER, {"game": {"kind": "study-group"}}, "format_reward"),
    ],
)
def test_settings_that_cannot_help_are_not_suggested(why: str, section: dict[str, Any], left_out: str) -> None:
    events = Events()
    checked = CollapseCheck(make_config(**section), events)
    for _ in range(10):
        checked.count([group(8, why)])
    (told,) = messages(events)
    assert left_out not in told
    assert "choose a" in told.lower()


def test_an_own_reward_that_never_pays_is_to_be_checked() -> None:
    events = Events()
    own = [TaskConfig(name="python-file", path="/mine.py")]
    checked = CollapseCheck(make_config().model_copy(update={"tasks": own}), events)
    for _ in range(10):
        checked.count([group(8)])
    assert "Check that your task rewards a correct answer (swarmctl tasks try), choose" in messages(events)[0]


def test_ten_small_rounds_without_a_reward_are_reported() -> None:
    checked, events = check()
    for _ in range(collapse.MOST_ROUNDS_IN_VAIN - 1):
        checked.count([group(2)])
    assert messages(events) == []
    checked.count([group(2)])
    assert messages(events)[0].startswith("no reward in the last 10 rounds (20 completions)")


def test_small_rounds_without_a_reward_may_be_chance_if_rewards_were_rare() -> None:
    checked, events = check()
    checked.count([group(1, outcome=1.0), group(19)])
    for _ in range(20):
        checked.count([group(2)])
    assert messages(events) == []
    for _ in range(60):
        checked.count([group(2)])
    (told,) = messages(events)
    assert told.startswith("no reward in the last 68 rounds (136 completions)")


@pytest.mark.parametrize("resumed", [False, True])
def test_a_model_that_no_longer_ends_its_answers_needs_no_higher_limit(resumed: bool) -> None:
    checked, events = check()
    if resumed:
        checked.remember([accuracy(0, 0.4), accuracy(5, 0.1)])
    else:
        checked.count([group(40, outcome=1.0), group(60)])
    for _ in range(10):
        checked.count([group(100, NO_ANSWER, cut=True)])
    (told,) = messages(events)
    assert "cut at the length limit. The model used to end its answers, and no longer does. Start a new node" in told
    assert "lower train.learning_rate (now 0.0001)" in told
    assert "max_completion_tokens" not in told


def test_a_limit_that_few_answers_ever_met_should_be_higher() -> None:
    checked, events = check()
    checked.count([group(1, outcome=1.0), group(99, NO_ANSWER, cut=True)])
    for _ in range(10):
        checked.count([group(100, NO_ANSWER, cut=True)])
    assert "Raise generation.max_completion_tokens (now 8)" in messages(events)[0]


def test_completions_that_were_never_judged_are_a_reason() -> None:
    checked, events = check()
    for _ in range(10):
        checked.count([group(2)], unjudged=6)
    assert "; 60 of 80 completions were not verified. Verifiers keep failing on them" in messages(events)[0]


def test_a_short_run_without_any_reward_is_reported_at_its_end() -> None:
    checked, events = check()
    for _ in range(4):
        checked.count([group(8)])
    assert messages(events) == []
    checked.finished()
    assert messages(events)[0].startswith("no reward in any of this run's 4 rounds (32 completions); 32 of 32 ")
    checked, events = check()
    checked.count([group(8, outcome=1.0)])
    for _ in range(9):
        checked.count([group(8)])
    checked.finished()
    assert messages(events) == []


@pytest.mark.parametrize(
    ("right", "sections", "told"),
    [(9, {}, "Choose a harder task"), (1, {}, "Set game.refill"), (1, {"game": {"refill": 8}}, "Choose a harder task")],
)
def test_ten_rounds_without_a_difference_are_reported(right: int, sections: Any, told: str) -> None:
    events = Events()
    checked = CollapseCheck(make_config(**sections), events)
    alike = [*(group(8, outcome=1.0) for _ in range(right)), group(8)]
    for _ in range(9):
        checked.count(alike)
    differing = Group(PROMPT, group(2).rollouts, (Score(1.0, True, "correct"), Score(0.0, True, "wrong")))
    checked.count([*alike, differing])
    for _ in range(9):
        checked.count(alike)
    assert messages(events) == []
    checked.count(alike)
    completions = f"{80 * right} of {80 * right + 80} completions were correct"
    assert messages(events)[0].startswith(f"no group taught anything in the last 10 rounds; {completions}. {told}")


def test_a_reward_restarts_the_count_and_changes_the_advice() -> None:
    checked, events = check()
    for _ in range(3):
        for _ in range(3):
            checked.count([group(256)])
        checked.count([group(256, outcome=0.5)])
    assert messages(events) == []
    for _ in range(4):
        checked.count([group(256)])
    assert messages(events)[0].endswith("a lower train.learning_rate (now 0.0001) or with train.beta above 0")


def test_a_model_that_was_hardly_ever_correct_has_not_lost_its_ability() -> None:
    """SmolLM2 did this on a task of which it learned 98 % later, with the learning rate that it had."""
    checked, events = check()
    checked.count([group(256)])
    checked.count([group(3, outcome=1.0), group(253)])
    for _ in range(4):
        checked.count([group(256)])
    (told,) = messages(events)
    assert told.startswith("no reward in the last 4 rounds (1024 completions); 1024 of 1024 completions were wrong. ")
    assert "Start with easier questions" in told
    assert "learning_rate" not in told


def test_other_sources_rows_and_unjudged_rows_do_not_count() -> None:
    checked, events = check()
    unjudged = Score(0.0, False, "could not be judged", judged=False)
    for _ in range(200):
        lost = Group(PROMPT, group(1).rollouts, (unjudged,))
        checked.count([group(100, kind=Kind.TEACHER, outcome=1.0), group(9, kind=Kind.PEER, outcome=1.0), lost])
    assert messages(events) == []


def accuracy(round_: int, value: float, questions: int = 200) -> Evaluation:
    return Evaluation(round_, value, questions, {})


def test_an_accuracy_that_falls_to_zero_is_reported_once() -> None:
    checked, events = check()
    seen: list[Evaluation] = []
    for value in (0.1, 0.41, 0.0, 0.0, 0.2, 0.0):
        seen.append(accuracy(len(seen), value))
        checked.evaluated(seen)
    assert [text.partition(". ")[0] for text in messages(events)] == [
        "accuracy on held-out questions fell from 41 % (34–48) to 0 % (0–2) in round 2",
        "accuracy on held-out questions fell from 41 % (34–48) to 0 % (0–2) in round 5",
    ]
    assert "lower train.learning_rate" in messages(events)[0]


@pytest.mark.parametrize(("best", "questions"), [(0.0, 200), (0.02, 200), (0.4, 6)])
def test_an_accuracy_of_zero_that_may_be_chance_is_not_reported(best: float, questions: int) -> None:
    checked, events = check()
    checked.evaluated([accuracy(0, best, questions), accuracy(1, 0.0, questions)])
    assert messages(events) == []


@pytest.mark.slow
def test_a_node_that_learns_nothing_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hivemind_exp.node_files import NodeFiles
    from hivemind_exp.runner.grpo_runner import GRPORunner
    from tests.support.spelling_task import Spelling

    monkeypatch.setattr(collapse, "MOST_ROUNDS_IN_VAIN", 3)
    events = Events()
    config: Any = make_config(game={"rounds": 4}, eval={"every": 0})
    (tmp_path / "node").mkdir()
    GRPORunner(config, NodeFiles(tmp_path / "node"), events, make_tasks=lambda *_: Spelling()).run()
    assert [event["code"] for event in events.of("warning")] == ["no_reward"]
    assert run(config, tmp_path / "rewarded", emit=(rewarded := Events())).round == 4
    assert rewarded.of("warning") == []


@pytest.mark.parametrize(
    ("cut", "told"),
    [
        (True, "were cut at the length limit. Raise generation.max_completion_tokens (now 8)"),
        (False, "were wrong. Check that the environment rewards a conversation that goes well (swarmctl tasks try)"),
    ],
)
def test_advice_on_conversations_names_only_what_can_be_used_with_them(cut: bool, told: str) -> None:
    checked, events = check()
    row = Rollout(Kind.POLICY, "local", "text", (7,), cut, turns=(Turn("assistant", "text", 1),))
    for _ in range(4):
        checked.count([Group(PROMPT, (row,) * 128, (Score(0.0, False, "wrong"),) * 128)])
    (message,) = messages(events)
    assert told in message
    assert "offload" not in message
