"""Groups that tie are replaced by further questions, up to a bound, and a killed node asks the same ones again."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hivemind_exp.config import Config
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.rollouts.types import Group, Prompt, Rollout
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.seeds import derive_seed
from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.base import Question, Score
from hivemind_exp.trainer.refill import best, refill, teaches
from tests.support import setting_effects
from tests.support.nodes import Events, make_config
from tests.support.restarts import same_weights
from tests.support.spelling_task import Spelling


def group(*outcomes: float, teacher: Sequence[float] = (), number: int = 0) -> Group:
    prompt = Prompt(Question("t", "train", 0, number, "q", {}, f"d{number}", "k"), "answer", (), (1,))
    kinds = [Kind.POLICY] * len(outcomes) + [Kind.TEACHER] * len(teacher)
    rows = tuple(Rollout(kind, "x", "text", (7,), False) for kind in kinds)
    return Group(prompt, rows, tuple(Score(outcome, True, "") for outcome in (*outcomes, *teacher)))


@pytest.mark.parametrize(
    ("tied", "expected"),
    [
        (group(0, 0, 0), False),
        (group(1, 1), False),
        (group(0, 1), True),
        (group(teacher=[1, 1]), True),  # learned from whatever this node can do
        (group(0, 0, teacher=[1]), True),
        (group(0, 0, teacher=[0]), False),
        (group(1, 1, teacher=[0]), False),
    ],
)
def test_a_group_teaches_if_rewards_differ_or_others_are_better(tied: Group, expected: bool) -> None:
    assert teaches(tied) == expected


def test_ties_are_replaced_until_none_is_left_or_the_bound_is_reached() -> None:
    stream = [group(0, number % 3 == 0, number=number) for number in range(100)]
    calls = []

    def ask(taken: int, count: int) -> list[Group]:
        calls.append((taken, count))
        return stream[4 + taken : 4 + taken + count]

    asked = refill(stream[:4], 100, ask)  # 0 and 3 teach something
    assert calls == [(0, 2), (2, 2), (4, 1), (5, 1)]
    assert [each.prompt.question.index for each in best(asked, 4)] == [0, 3, 6, 9]
    calls.clear()
    asked = refill(stream[:4], 3, ask)
    assert calls == [(0, 2), (2, 1)]
    assert [each.prompt.question.index for each in best(asked, 4)] == [0, 1, 3, 6]


def test_the_order_of_a_round_without_further_questions_stays() -> None:
    groups = [group(0, 0, number=0), group(0, 1, number=1), group(1, 1, number=2)]
    assert best(groups, 3) == groups


class RareRewards(Spelling):
    """Rates one completion in eight as right, so that most groups tie. Raises in the ``crash``-th call."""

    def __init__(self, crash: int = 0) -> None:
        super().__init__()
        self._calls, self._crash = 0, crash

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
        self._calls += 1
        if self._calls == self._crash:
            raise KeyboardInterrupt
        return [
            Score(float(derive_seed(question.digest, text) % 8 == 0), True, "chance")
            for question, text in zip(questions, completions, strict=True)
        ]


def refilled(root: Path, *, refill: int = 5, crash: int = 0, **sections: dict[str, Any]) -> Events:
    root.mkdir(exist_ok=True)
    events = Events()
    config = make_config(game={"rounds": 4, "refill": refill}, **sections)
    GRPORunner(config, NodeFiles(root), events, make_tasks=lambda *_: RareRewards(crash)).run()
    return events


def journaled(root: Path) -> list[tuple[Any, ...]]:
    """Return every prompt's round and question, and how many completions it has."""
    query = (
        "SELECT p.round, p.position, p.question, COUNT(c.idx) FROM prompts p JOIN completions c USING (round, question)"
    )
    with closing(sqlite3.connect(root / "journal.sqlite")) as database:
        return database.execute(f"{query} GROUP BY p.round, p.position ORDER BY p.round, p.position").fetchall()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Events]:
    root = tmp_path_factory.mktemp("whole")
    return root, refilled(root)


@pytest.mark.slow
def test_further_questions_are_asked_counted_and_learned_from(whole: tuple[Path, Events], tmp_path: Path) -> None:
    root, events = whole
    plain = refilled(tmp_path, refill=0)
    asked = [event["groups"] for event in events.of("round")]
    assert [event["groups"] for event in plain.of("round")] == [3] * 4
    assert max(asked) > 3
    assert all(3 <= number <= 8 for number in asked)
    assert sum(e["different"] for e in events.of("round")) > sum(e["different"] for e in plain.of("round"))
    assert [event["count"] for event in events.of("rollouts")] == [4 * number for number in asked]
    assert all(row[3] == 4 for row in journaled(root))
    assert not same_weights(root, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("crash", [4, 7])
def test_a_node_killed_while_it_refills_ends_with_the_same_weights(
    whole: tuple[Path, Events], tmp_path: Path, crash: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        refilled(tmp_path, crash=crash)
    refilled(tmp_path)
    assert same_weights(whole[0], tmp_path)
    assert journaled(whole[0]) == journaled(tmp_path)


@pytest.mark.slow
def test_further_questions_are_never_sent_to_an_api(tmp_path: Path) -> None:
    config = make_config(
        game={"rounds": 3, "groups": 1, "refill": 4},
        offload={"provider": "box", "kind": "policy", "share": 0.5, "ahead": 0},
        providers={"box": {"base_url": "http://127.0.0.1:9/v1", "model": "m", "free": True}},
        eval={"every": 0, "questions": 1},
    )
    seen = setting_effects.played(config, tmp_path)
    assert set(seen["requests"]) == {(round_, "answer", 2) for round_ in range(3)}
    assert {count % 4 for count in seen["counts"]} <= {0, 2}
    assert max(seen["counts"]) > 4


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"game": {"kind": "study-group"}}, "game.refill only works with"),
        ({"offload": {"provider": "openai", "kind": "relay"}}, "a relay does not train"),
    ],
)
def test_refill_is_refused_where_it_would_have_no_effect(sections: dict[str, Any], why: str) -> None:
    game = {"refill": 2, **sections.get("game", {})}
    with pytest.raises(ValidationError, match=why):
        Config.model_validate({**sections, "game": game})
