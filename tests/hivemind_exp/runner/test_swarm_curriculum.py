"""Nodes of a swarm with a curriculum ask at levels of their own, and still learn from each other's groups."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import Config, TaskConfig
from hivemind_exp.errors import ConfigurationError, SwarmSkew
from hivemind_exp.game.node_style import write_style
from hivemind_exp.game.prompt_style import TAGS_STYLE
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import FOREIGN
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import GRPORunner, make_mixture
from hivemind_exp.seeds import derive_seed
from hivemind_exp.swarm.charter import Charter, CharterTask
from hivemind_exp.swarm.charter_check import applied, levels_of, pinned
from hivemind_exp.tasks.base import Question, Score
from hivemind_exp.tasks.mixture import Mixture
from tests.support.nodes import PAUSE_S, Events
from tests.support.patience import Patience
from tests.support.swarm_nodes import PATIENCE_S, events, found, peer_of, playing, settings

SPECS = [
    TaskConfig(name="spell_backward", params={"min_word_len": 3, "max_word_len": 8}),
    TaskConfig(name="chain_sum", params={"min_terms": 2, "max_terms": 6, "min_digits": 1, "max_digits": 2}),
]
LEVELS: dict[str, tuple[dict[str, Any], ...]] = {
    "spell_backward": ({"max_word_len": 4}, {"max_word_len": 6}, {"max_word_len": 8}),
    "chain_sum": (
        {"max_terms": 2, "max_digits": 1},
        {"max_terms": 3, "max_digits": 1},
        {"max_terms": 6, "max_digits": 2},
    ),
}
EASY, HARD = 0, 2
ON: dict[str, Any] = {"game": {"curriculum": True}, "generation": {"max_prompt_tokens": 400}}


class Chance(Mixture):
    """Rates a random half of all answers as right, at the speed of a larger model."""

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
        time.sleep(PAUSE_S / 2)
        return [
            Score(float(derive_seed(question.digest, text) % 2), True, "chance")
            for question, text in zip(questions, completions, strict=True)
        ]


def make(config: Config, files: NodeFiles) -> Mixture:
    made = make_mixture(config, files)
    made.__class__ = Chance
    return made


def mixture() -> Mixture:
    return Mixture(SPECS, charter=b"", secret=b"", heldout=0, verifiers=1, levels=LEVELS)


@pytest.fixture(scope="module")
def tasks() -> tuple[CharterTask, ...]:
    with closing(mixture()) as made:
        facts = made.facts()
        return pinned(SPECS, facts, {fact.label: made.digest(fact.label) for fact in facts})


def starts(root: Path, **levels: int) -> Path:
    """Record the levels at which a node starts, as its calibration would."""
    root.mkdir(exist_ok=True)
    write_style(NodeFiles(root).prompt, TAGS_STYLE, {"levels": levels})
    return root


def rows(root: Path, query: str, *values: object) -> list[tuple[Any, ...]]:
    if not NodeFiles(root).journal.exists():
        return []
    with closing(sqlite3.connect(NodeFiles(root).journal)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'visits'").fetchall():
            return []  # the node is just creating it
        return db.execute(query, values).fetchall()


def drawn(root: Path, rules: Charter, peer: str) -> set[tuple[str, int | None]]:
    """Return the tasks and levels of the groups that a node drew from a peer, found by generating them again.

    A question may be the same at several levels. Then it counts as one of the hardest.
    """
    query = (
        "SELECT p.task, d.peer_round, d.place, d.question FROM drawn d JOIN prompts p ON (p.swarm, p.round, p.stage) = "
        "(d.swarm, d.round, d.stage) AND p.question = d.question WHERE d.peer = ? AND p.position >= ?"
    )
    asked = set(rows(root, query, peer, FOREIGN))
    levels = levels_of(rules)
    made = Mixture(SPECS, charter=rules.id.encode(), secret=b"", heldout=0, verifiers=1, levels=levels)
    with closing(made):
        return {
            next(
                (task, level)
                for level in (HARD, 1, EASY, None)
                if (again := made.question(task, round_, place, level)) is not None and again.digest == digest
            )
            for task, round_, place, digest in asked
        }


def wait(until: Callable[[], bool], *nodes: Any) -> None:
    patience = Patience(PATIENCE_S)
    while not until():
        assert all(node.is_alive() for node in nodes)
        assert not patience.is_over()
        time.sleep(0.5)


def questions(root: Path) -> list[tuple[Any, ...]]:
    return rows(root, "SELECT round, position, task, question FROM prompts WHERE position < ? ORDER BY 1, 2", FOREIGN)


def visits(root: Path) -> list[tuple[Any, ...]]:
    return rows(root, "SELECT * FROM visits ORDER BY step, number")


@pytest.mark.swarm
def test_nodes_at_different_levels_draw_each_others_groups_and_one_is_killed(
    tmp_path: Path, tasks: tuple[CharterTask, ...]
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    rules, invitation = found(one, tasks=tasks, curriculum=True)
    starts(one, spell_backward=EASY, chain_sum=HARD)
    starts(two, spell_backward=HARD, chain_sum=EASY)
    with playing({one: ON}, invitation, make=make) as (first,):
        with playing({two: ON}, invitation, make=make) as (second,):
            wait(lambda: len(visits(two)) >= 16, first, second)
            assert second.pid is not None
            os.kill(second.pid, signal.SIGKILL)
            second.join()
        asked, seen = questions(two), visits(two)
        with playing({two: ON}, invitation, make=make) as (again,):
            # Each draws only what it has not mastered: the other's harder task.
            wait(
                lambda: (
                    ("spell_backward", HARD) in drawn(one, rules, peer_of(two))
                    and ("chain_sum", HARD) in drawn(two, rules, peer_of(one))
                    and len(visits(two)) >= len(seen) + 16
                ),
                first,
                again,
            )
    assert drawn(one, rules, peer_of(two)) == {("spell_backward", HARD)}
    assert drawn(two, rules, peer_of(one)) == {("chain_sum", HARD)}
    assert questions(two)[: len(asked)] == asked, "also of the round that was under way"
    assert visits(two)[: len(seen)] == seen
    assert {(row[3], row[5]) for row in visits(two)} == {("spell_backward", HARD), ("chain_sum", EASY)}
    for root in (one, two):
        reasons = {why for event in events(root, "share") for why in event["unused"]}
        assert not {why for why in reasons if "level" in why or "differs" in why or "index" in why}
        levels = events(root, "curriculum")[0]["tasks"]
        assert {task: each["levels"] for task, each in levels.items()} == {"spell_backward": 3, "chain_sum": 3}


@pytest.mark.slow
@pytest.mark.parametrize("curriculum", [True, False])
def test_only_a_curriculum_chooses_questions_in_a_swarm(
    tmp_path: Path, tasks: tuple[CharterTask, ...], curriculum: bool
) -> None:
    """Fixed sets rest in no swarm, because the nodes must agree on their questions."""
    root = tmp_path / "one"
    rules, invitation = found(root, tasks=tasks, curriculum=True)
    config = applied(rules, settings(root, invitation, game={"curriculum": curriculum, "rest": 2}))
    runner = GRPORunner(config, NodeFiles(root), Events())
    with closing(make(config, NodeFiles(root))) as made, closing(Journal(NodeFiles(root).journal, rules.id)) as journal:
        pacing = runner._pace(made, journal)
        assert made.pacing is pacing
        assert made.levels_at(0) == ({"spell_backward": 0, "chain_sum": 0} if curriculum else {})
    assert pacing is None if not curriculum else pacing is not None and (pacing.game.rest, pacing.lag) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("curriculum", "levels", "error"),
    [
        (False, (), "so game.curriculum cannot be used in it"),
        (True, LEVELS["chain_sum"][1:], "other questions on this"),
    ],
)
def test_a_node_does_not_start_with_levels_other_than_its_charters(
    tmp_path: Path, tasks: tuple[CharterTask, ...], curriculum: bool, levels: Sequence[dict[str, Any]], error: str
) -> None:
    words, sums = (replace(task, levels=task.levels if curriculum else ()) for task in tasks)
    _, invitation = found(tmp_path / "one", tasks=(words, replace(sums, levels=levels)), curriculum=curriculum)
    config = settings(tmp_path / "one", invitation, **ON)
    with pytest.raises((ConfigurationError, SwarmSkew), match=error):
        GRPORunner(config, NodeFiles(tmp_path / "one"), Events(), make_tasks=make).run()
