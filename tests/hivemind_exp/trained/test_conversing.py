"""A trained model has conversations: as samples, and in an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.trained import answering, evaluation
from tests.hivemind_exp.trained.conftest import Trained
from tests.support.links import RecordedLink
from tests.support.nodes import make_config
from tests.support.recorded_events import Events
from tests.support.two_turn_game import TwoTurnGame, save_player

pytestmark = pytest.mark.slow


@pytest.fixture
def game(monkeypatch: pytest.MonkeyPatch) -> TwoTurnGame:
    """The tasks of the node."""
    played = TwoTurnGame()

    @contextmanager
    def tasks(*_: object) -> Iterator[TwoTurnGame]:
        yield played

    for module in (answering, evaluation):
        monkeypatch.setattr(module, "own_tasks", tasks)
    return played


@pytest.fixture(scope="module")
def player(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root, model = tmp_path_factory.mktemp("node"), save_player(tmp_path_factory.mktemp("player"))
    config = make_config(model={"name": str(model)}, game={"rounds": 1, "groups": 2}, eval={"every": 0, "questions": 4})
    GRPORunner(config, NodeFiles(root), Events(), make_tasks=lambda *_: TwoTurnGame()).run()
    return Trained(config, NodeFiles(root))


def test_a_sample_is_a_conversation(player: Trained, game: TwoTurnGame) -> None:
    link = RecordedLink()
    answering.sample(player.job({"text": None, "questions": 4, "base": False, "seed": 3, "system": None}, link))
    assert [each["task"] for each in link.of("question")] == ["letters"] * 4
    answers = link.of("answer")
    assert len(answers) == 4
    assert {len(talk.turns) for talk in game.asked} == {1, 2}
    assert all(answer["correct"] in (True, False) for answer in answers)  # the game's own verdict


def test_an_evaluation_has_conversations(player: Trained, game: TwoTurnGame, tmp_path: Path) -> None:
    link = RecordedLink()
    node = {"config": player.config.model_dump(mode="json"), "node_dir": str(player.files.root)}
    order = {"asked": node, "questions": 4, "samples": 2, "greedy": False, "results": str(tmp_path), "seed": 3}
    evaluation.evaluate(player.job(order, link))
    results = link.of("result")
    assert [len(each["answers"]) for each in results] == [2] * 4
    assert {len(talk.turns) for talk in game.asked} == {1, 2}
    for answer in (answer for each in results for answer in each["answers"]):
        said, heard, last = answer["text"].split("\n\n")
        assert heard == f"[user] {heard[-1]}"
        assert (answer["correct"], len(said)) == (last == heard[-1].lower(), 1)
