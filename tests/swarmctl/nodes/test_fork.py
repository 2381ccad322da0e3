"""``swarmctl fork``: the new node takes the same steps from the checkpoint on, and nothing that is a node's own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from hivemind_exp.node_files import NodeFiles
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.nodes import fork as fork_module
from swarmctl.nodes.lookup import files_of
from swarmctl.storage import node_lock as locks
from swarmctl.storage.json_file import read_json, write_json
from tests.support.journals import bare_node
from tests.support.nodes import make_config, run
from tests.support.restarts import same_weights


@pytest.fixture
def trained() -> NodeFiles:
    """Train the node "maths" for four rounds, with a checkpoint after two; return its files."""
    files = bare_node("maths")
    run(make_config(game={"rounds": 4}), files.root)
    return files


@pytest.mark.slow
def test_a_fork_takes_the_same_steps_from_the_checkpoint_on(
    trained: NodeFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    part = trained.root / "events-000001.jsonl"
    for path in (trained.key, trained.spent, trained.consent, part):
        path.write_text("{}")
    (trained.root / "calibration.json").write_text("{}")
    assert cli.run(["fork", "maths", "earlier", "--at", "2", "--json"]) == Exit.DONE
    assert json.loads(capsys.readouterr().out) == (
        {"schema": 1, "node": "earlier", "forked": "maths", "step": 2, "round": 2}
    )
    fork = files_of("earlier")
    assert [path.name for path in fork.checkpoints.iterdir()] == ["00000002"]
    assert not any(path.exists() for path in (fork.key, fork.spent, fork.consent, fork.events, fork.root / part.name))
    assert (fork.root / "calibration.json").exists()
    assert cli.run(["status", "earlier", "--json"]) == Exit.DONE
    assert json.loads(capsys.readouterr().out)["nodes"][0]["state"] == "never started"
    assert (read_json(fork.identity) or {})["name"] == "earlier"
    run(make_config(), trained.root)
    assert run(make_config(), fork.root).step == 6
    assert same_weights(trained.root, fork.root)


@pytest.mark.slow
def test_the_command_that_runs_a_fork_adds_rounds_only_if_none_are_left(
    trained: NodeFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(trained.config, {"config": make_config(game={"rounds": 4}).model_dump(mode="json")})
    assert cli.run(["fork", "maths", "earlier", "--at", "2"]) == Exit.DONE
    assert capsys.readouterr().out.endswith("run --node earlier\n")
    assert cli.run(["fork", "maths", "latest"]) == Exit.DONE
    assert capsys.readouterr().out.endswith("run --node latest --rounds 8\n")


@pytest.mark.slow
def test_a_running_node_can_be_forked(trained: NodeFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = os.open(trained.lock, os.O_RDWR | os.O_CREAT)
    assert locks.acquire(lock)
    assert cli.run(["fork", "maths", "copy"]) == Exit.DONE
    assert locks.is_held(trained.lock)
    os.close(lock)
    run(make_config(), trained.root)
    run(make_config(), files_of("copy").root)
    assert same_weights(trained.root, files_of("copy").root)


@pytest.mark.slow
def test_a_checkpoint_that_a_running_node_deletes_meanwhile_leaves_nothing(
    trained: NodeFiles, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def deleted(source: Path, _: Path) -> None:
        shutil.rmtree(source)
        raise FileNotFoundError(source)

    monkeypatch.setattr(fork_module, "link_tree", deleted)
    assert cli.run(["fork", "maths", "late", "--at", "2"]) == Exit.CONFIGURATION
    error = capsys.readouterr().err
    assert "node maths has just deleted checkpoint 2" in error
    assert error.endswith("fork maths late\n")
    assert [path.name for path in trained.root.parent.iterdir()] == ["maths"]


def test_what_cannot_be_forked_is_refused_and_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    files = bare_node("maths")

    def refused(*arguments: str) -> str:
        assert cli.run(["fork", "maths", "new", *arguments]) == Exit.CONFIGURATION
        assert not files_of("new").root.exists()
        return capsys.readouterr().err

    assert "node maths has no checkpoint yet" in refused()
    (files.checkpoints / "00000100").mkdir(parents=True)
    missing = refused("--at", "50")
    assert "no checkpoint 50; there are 100" in missing
    assert missing.endswith("swarmctl fork maths new\n")
    files.charter.write_bytes(b"")
    assert "swarm leave --node maths" in refused()
    files.charter.unlink()
    write_json(files.identity, (read_json(files.identity) or {}) | {"fresh": True})
    assert "starts over at every run" in refused()
    shutil.rmtree(files.checkpoints)


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", '{"id": 5', "[]"])
def test_a_node_whose_file_of_fixed_settings_is_damaged_is_not_forked(
    trained: NodeFiles, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trained.identity.write_text(content)
    assert cli.run(["fork", "maths", "copy"]) != Exit.DONE
    said = " ".join(capsys.readouterr().err.split())
    assert f"{trained.identity} is damaged, so a fork of node maths could not run" in said
    assert not files_of("copy").root.exists()
