"""A small reward for the format: only the node's own training has it, and it ends once the format is followed."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hivemind_exp.config import Config
from hivemind_exp.game.prompt_style import TAGS_STYLE, PromptStyle
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Manifest, QuestionResult
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.rollouts.types import Group, Prompt, Rollout
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.seeds import derive_seed
from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.base import Question, RewardTerm, Score
from hivemind_exp.trainer import format_reward
from hivemind_exp.trainer.format_reward import ROUNDS, FormatReward
from tests.support.nodes import Events, make_config
from tests.support.restarts import same_weights
from tests.support.spelling_task import Spelling

PROMPT = Prompt(Question("t", "train", 0, 0, "q", {}, "d", "k"), "answer", (), (1,))


def group(*scores: tuple[float, bool], kind: Kind = Kind.POLICY) -> Group:
    rows = tuple(Rollout(kind, "x", "<answer>7</answer>" if strict else "7", (7,), False) for _, strict in scores)
    return Group(PROMPT, rows, tuple(Score(outcome, True, "verified") for outcome, _ in scores))


def results(strict: int) -> list[QuestionResult]:
    return [QuestionResult(0, "t", None, None, 10, 0, strict), QuestionResult(0, "t", None, None, 10, 0, strict)]


@pytest.fixture
def journal(tmp_path: Path) -> Any:
    with closing(Journal(tmp_path / "journal.sqlite", "swarm", durable=False)) as opened:
        yield opened


def test_own_completions_in_the_format_get_a_term_and_keep_their_outcome(journal: Journal) -> None:
    given = [group((1.0, True), (0.0, True), (0.0, False)), group((1.0, True), kind=Kind.TEACHER)]
    own, teacher = FormatReward(0.2, TAGS_STYLE, journal, Events()).add(given)
    assert [score.reward for score in own.scores] == [1.2, 0.2, 0.0]
    assert [score.outcome for score in own.scores] == [1.0, 0.0, 0.0]
    assert [term.name for term in own.scores[0].terms] == ["correct", "format"]
    assert teacher == given[1]
    assert FormatReward(0.0, TAGS_STYLE, journal, Events()).add(given) == given


def test_the_terms_of_a_tasks_own_reward_stay(journal: Journal) -> None:
    given = group((1.0, True))
    terms = (RewardTerm("correct", 1.0, 1.0, ""), RewardTerm("short", 0.1, 0.1, ""))
    (rewarded,) = FormatReward(0.2, TAGS_STYLE, journal, Events()).add(
        [replace(given, scores=(replace(given.scores[0], terms=terms),))]
    )
    assert [term.name for term in rewarded.scores[0].terms] == ["correct", "short", "format"]
    assert rewarded.scores[0].reward == pytest.approx(1.3)


def test_it_ends_for_good_once_the_format_is_followed_for_some_rounds(journal: Journal) -> None:
    given, events = [group((0.0, True))], Events()
    reward = FormatReward(0.2, TAGS_STYLE, journal, events)
    for strict in (10, 10, 9, *[10] * ROUNDS):  # the third round has 90 %: not enough
        assert reward.add(given) != given
        reward.count(results(strict))
    (note,) = events.of("note")
    assert note["message"].startswith(
        "more than 90% of the completions in the last 3 rounds are in the requested format"
    )
    reward.count(results(0))
    assert reward.add(given) == given
    assert len(events.of("note")) == 1


def test_a_restarted_node_reads_from_the_journal_whether_it_has_ended(journal: Journal) -> None:
    given = [group((0.0, True))]
    for step in range(ROUNDS):
        assert FormatReward(0.2, TAGS_STYLE, journal, Events()).add(given) != given
        journal.commit(Manifest(step, step, 0, 4, ()), results=results(10))
    events = Events()
    assert FormatReward(0.2, TAGS_STYLE, journal, events).add(given) == given
    assert not events.all


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("tags", "<think>3 + 4</think><answer>7</answer>"),
        ("answer-tag", "<answer>7</answer>"),
        ("boxed", "3 + 4\n\n\\boxed{7}"),
        ("plain", "7"),
    ],
)
def test_each_style_rewards_its_own_format(form: Any, text: str) -> None:
    style = PromptStyle(form)
    assert style.is_followed(text, "7")
    assert not style.is_followed(f"Well: {text}, I think.", "7")
    others = {"<answer>7</answer>", "\\boxed{7}", "7"} - {text if form != "boxed" else "\\boxed{7}"}
    if form != "tags":
        assert not any(style.is_followed(other, "7") for other in others)


class NeverRight(Spelling):
    """Nothing is correct. Raises in the ``crash``-th call."""

    def __init__(self, crash: int = 0) -> None:
        super().__init__()
        self._calls, self._crash = 0, crash

    def score(self, questions: Sequence[Question], _: Sequence[str]) -> list[Score]:
        self._calls += 1
        if self._calls == self._crash:
            raise KeyboardInterrupt
        return [Score(0.0, True, "wrong") for _ in questions]


def trained(root: Path, value: float = 0.2, crash: int = 0) -> Events:
    root.mkdir(exist_ok=True)
    config, events = make_config(game={"rounds": 6, "format_reward": value}, eval={"every": 0}), Events()
    GRPORunner(config, NodeFiles(root), events, make_tasks=lambda *_: NeverRight(crash)).run()
    return events


@pytest.mark.slow
def test_the_node_trains_on_it_until_the_format_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(format_reward, "ROUNDS", 2)
    monkeypatch.setattr(format_reward, "FOLLOWED", 0.6)
    monkeypatch.setattr(format_reward, "said", lambda rollout: rollout.text)  # they are all cut
    monkeypatch.setattr(PromptStyle, "is_followed", lambda _, text, __: derive_seed(0, text) % 4 > 0)
    events = trained(tmp_path / "whole")
    rollouts = events.of("rollouts")
    assert [event["reward"] for event in rollouts] == [0.0] * 6
    assert [event["correct"] for event in rollouts] == [0] * 6
    points = [event["points"] for event in rollouts]
    rewarded = points.index(None)
    assert rewarded >= 2
    assert all(0 < value < 0.2 for value in points[:rewarded])
    assert points[rewarded:] == [None] * (6 - rewarded)
    assert {event["accuracy"] for event in events.of("eval")} == {0.0}
    assert [event["code"] for event in events.of("note")] == ["format_followed"]
    with closing(sqlite3.connect(tmp_path / "whole" / "journal.sqlite")) as database:
        assert database.execute("SELECT MAX(outcome) FROM completions").fetchone() == (0.0,)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", crash=5)
    trained(tmp_path / "cut")
    assert same_weights(tmp_path / "whole", tmp_path / "cut")
    trained(tmp_path / "without", 0.0)
    assert not same_weights(tmp_path / "whole", tmp_path / "without")


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"game": {"kind": "study-group"}}, "game.format_reward only works with"),
        ({"train": {"teacher_loss": "luffy"}}, "compares only outcomes"),
        ({"offload": {"provider": "openai", "kind": "relay"}}, "a relay does not train"),
    ],
)
def test_it_is_refused_where_it_would_have_no_effect(sections: dict[str, Any], why: str) -> None:
    game = {"format_reward": 0.2, **sections.get("game", {})}
    with pytest.raises(ValidationError, match=why):
        Config.model_validate({**sections, "game": game})
