"""A node that learns from conversations with an environment."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Manifest
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.stop import StopFlag, StopRequested
from tests.support.nodes import make_config
from tests.support.recorded_events import Events
from tests.support.restarts import Interrupter, same_weights
from tests.support.two_turn_game import TwoTurnGame, save_player

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def player(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_player(tmp_path_factory.mktemp("player"))


def config(player: Path, **sections: dict[str, Any]) -> Config:
    base: dict[str, dict[str, Any]] = {
        "model": {"name": str(player)},
        "generation": {"max_completion_tokens": 8},
        "game": {"rounds": 4, "groups": 2, "group_size": 4},
    }
    return make_config(**{name: base.get(name, {}) | sections.get(name, {}) for name in base | sections})


def play(config: Config, root: Path, *, turns: int = 2, stop: StopFlag | None = None, emit: Any = None) -> Events:
    root.mkdir(exist_ok=True)
    events = emit or Events()
    GRPORunner(config, NodeFiles(root), events, stop=stop, make_tasks=lambda *_: TwoTurnGame(turns)).run()
    return events


def test_a_node_learns_in_two_turns_what_it_cannot_learn_in_one(player: Path, tmp_path: Path) -> None:
    settings = config(
        player,
        game={"rounds": 20, "groups": 8, "group_size": 8},
        train={"learning_rate": 2e-3, "micro_batch": 64},
        generation={"batch": 64, "max_completion_tokens": 8},
        eval={"every": 0, "questions": 24},
    )
    two, one = (play(settings, tmp_path / str(turns), turns=turns).of("eval") for turns in (2, 1))
    assert two[0]["accuracy"] < 0.5
    assert two[-1]["accuracy"] > 0.6
    assert one[-1]["accuracy"] < 0.5  # one letter for all questions


@pytest.fixture(scope="module")
def whole(player: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    play(config(player), root)
    return root


@pytest.mark.parametrize("moment", [3, 6, 9, 14])
def test_a_stop_at_any_moment_changes_nothing(player: Path, whole: Path, tmp_path: Path, moment: int) -> None:
    stop = StopFlag()
    with pytest.raises(StopRequested):
        play(config(player), tmp_path / "cut", stop=stop, emit=Interrupter(stop, moment))
    play(config(player), tmp_path / "cut")
    assert same_weights(whole, tmp_path / "cut")


def test_the_journal_has_each_turn_and_the_step_only_what_the_model_wrote(
    player: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[Manifest] = []
    commit = Journal.commit
    monkeypatch.setattr(Journal, "commit", lambda *given: (steps.append(given[1]), commit(*given)))
    events = play(config(player, game={"rounds": 1}), tmp_path)
    with closing(sqlite3.connect(NodeFiles(tmp_path).journal)) as db:
        rows = db.execute("SELECT ids, conversation, outcome FROM completions").fetchall()
    assert len(rows) == 8
    talks = [json.loads(talk) for _, talk, _ in rows]
    assert all([role for role, *_ in talk["turns"]] == ["assistant", "user", "assistant"] for talk in talks)
    assert [outcome for *_, outcome in rows] == [talk["score"]["outcome"] for talk in talks]
    sampled = sum(tokens for talk in talks for role, _, tokens in talk["turns"] if role == "assistant")
    (manifest,) = steps
    assert manifest.tokens == (sampled, 0)
    assert [list(row.completion_ids) for row in manifest.rows] == [json.loads(ids) for ids, *_ in rows]
    assert sum(row.sampled for row in manifest.rows) == sampled < sum(len(row.completion_ids) for row in manifest.rows)
    (rollouts,) = events.of("rollouts")
    assert (rollouts["source"], rollouts["tokens"], rollouts["terms"].keys()) == ("policy", sampled, {"right"})


@pytest.mark.parametrize(
    ("section", "settings", "named"),
    [
        ("offload", {"provider": "box"}, "offload.provider"),
        ("judge", {"provider": "box"}, "judge.provider"),
        ("game", {"format_reward": 0.2}, "game.format_reward"),
        ("game", {"kind": "study-group"}, "game.kind"),
        ("warm_start", {"steps": 2}, "warm_start.steps"),
    ],
)
def test_what_cannot_take_part_in_a_conversation_is_refused(
    player: Path, tmp_path: Path, section: str, settings: dict[str, Any], named: str
) -> None:
    box = {"box": {"base_url": "http://127.0.0.1:9/v1", "model": "m", "free": True}}
    with pytest.raises(ConfigurationError, match=f"{named} cannot be used with the task letters") as raised:
        play(config(player, **{section: settings}, providers=box), tmp_path)
    assert raised.value.next is not None
    assert raised.value.next.startswith(f"swarmctl run --set {named}=")
