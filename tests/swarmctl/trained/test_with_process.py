"""``swarmctl sample`` with the real process, a real node and its real task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.errors import NodeError
from hivemind_exp.game.prompt_style import TAGS_STYLE
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import GRPORunner
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.storage.json_file import write_json
from swarmctl.trained.process import model_process
from swarmctl.trained.target import TrainedNode
from tests.support.nodes import make_config, run
from tests.support.recorded_events import Events
from tests.support.two_turn_game import TwoTurnGame, save_player

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_leftovers")]


def test_a_sample_of_a_real_node(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config, root = make_config(game={"rounds": 1}, node={"name": "small"}), home / "nodes" / "small"
    run(config, root)
    NodeFiles(root).secret()  # its own tasks need one
    write_json(root / "node.json", {"schema": 1})
    body: dict[str, Any] = {"schema": 1, "profile": "demo", "overrides": {}, "config": config.model_dump(mode="json")}
    write_json(root / "config.json", body)
    capfd.readouterr()
    assert cli.run(["sample", "small", "-n", "2", "--json"]) == Exit.DONE
    found = json.loads(capfd.readouterr().out)
    assert found["checkpoint"] == {"step": 1, "round": 1}
    assert [each["task"] for each in found["samples"]] == ["spell_backward"] * 2
    assert all(each["before"]["correct"] is False for each in found["samples"])


def test_a_step_with_conversations_is_replayed(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    player, root = save_player(home / "player"), home / "nodes" / "small"
    config = make_config(
        model={"name": str(player)},
        node={"name": "small"},
        game={"rounds": 2, "groups": 2, "group_size": 8},
        checkpoint={"every": 1},
        eval={"every": 0, "questions": 2},
    )
    root.mkdir(parents=True)
    GRPORunner(config, NodeFiles(root), Events(), make_tasks=lambda *_: TwoTurnGame()).run()
    write_json(root / "node.json", {"schema": 1})
    body: dict[str, Any] = {"schema": 1, "profile": "demo", "overrides": {}, "config": config.model_dump(mode="json")}
    write_json(root / "config.json", body)
    capfd.readouterr()
    assert cli.run(["replay", "small", "--step", "2", "--json"]) == Exit.DONE
    found = json.loads(capfd.readouterr().out)
    (step,) = found["steps"]
    assert (found["same"], step["exact"], step["step"], step["round"]) == (True, True, 2, 2)
    assert step["recorded"] == {"loss": step["loss"], "grad_norm": step["grad_norm"]}
    assert step["grad_norm"] > 0


def test_a_process_that_dies_is_reported_with_its_last_line(home: Path) -> None:
    node = TrainedNode(NodeFiles(home), make_config(), None, {}, TAGS_STYLE)
    with (
        pytest.raises(NodeError, match=r"exited with code 1: .*No module named nothing_here"),
        model_process("sample", node, quiet=True, module="nothing_here") as process,
    ):
        list(process.events())
