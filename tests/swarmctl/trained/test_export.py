"""``swarmctl export``: whole directories, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.trained.pinned_checkpoint import pinned_checkpoint
from swarmctl.trained.target import ModelOptions, trained_node
from tests.swarmctl.trained.conftest import make_node

ADAPTED = {"name": "org/model", "lora": {}}


def test_a_model_is_copied_whole_with_a_modelfile(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_node(home, model={"name": "org/model"})
    model = root / "checkpoints" / "00000040" / "model"
    (model / "config.json").write_text("{}")
    target = tmp_path / "out" / "my model"
    assert cli.run(["export", "small", str(target), "--ollama"]) == Exit.DONE
    out = capsys.readouterr().out
    assert out.startswith(f"Exported the model of node small after round 20: {target}")
    assert f"-f '{target}/Modelfile'" in out
    assert (target / "config.json").read_text() == "{}"
    lines = (target / "Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ."
    assert lines[1].startswith('SYSTEM """')
    assert lines[2:] == [
        "PARAMETER temperature 1",
        "PARAMETER top_k 0",
        "PARAMETER top_p 1",
        "PARAMETER num_predict 512",
    ]
    assert list(target.parent.iterdir()) == [target]
    assert cli.run(["export", "small", str(target)]) == Exit.USAGE
    assert "already exists" in capsys.readouterr().err


def test_adapters_are_kept_or_merged(
    home: Path, tmp_path: Path, scripted: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    make_node(home, model=ADAPTED)
    assert cli.run(["export", "small", str(tmp_path / "kept"), "--json"]) == Exit.DONE
    found = json.loads(capsys.readouterr().out)
    assert found == {
        **{"schema": 1, "node": "small", "checkpoint": {"step": 40, "round": 20}, "kind": "adapters", "bytes": 0},
        **{"directory": str(tmp_path / "kept"), "gguf": None},
    }
    started = scripted("merge", [])
    assert cli.run(["export", "small", str(tmp_path / "whole"), "--merge"]) == Exit.DONE
    assert started["mode"] == "merge"
    assert Path(started["directory"]).name == "whole"
    assert (tmp_path / "whole").is_dir()
    assert "Exported the model of node small" in capsys.readouterr().out


def test_a_merge_that_fails_leaves_nothing_behind(home: Path, tmp_path: Path, scripted: Any) -> None:
    make_node(home, model=ADAPTED)
    scripted("merge", [KeyboardInterrupt()])
    assert cli.run(["export", "small", str(tmp_path / "new" / "whole"), "--merge"]) == Exit.INTERRUPTED
    assert list((tmp_path / "new").iterdir()) == []


def test_adapters_that_no_other_program_can_use_are_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_node(home, "tinier", model={"name": "tiny", "lora": {}})
    make_node(home, model=ADAPTED)
    for arguments, cause, following in (
        (["tinier"], "these adapters are for the demo's tiny model", "--merge"),
        (["small", "--ollama"], "--ollama needs a whole model", "--merge --ollama"),
    ):
        assert cli.run(["export", arguments[0], str(tmp_path / "no"), *arguments[1:]]) == Exit.CONFIGURATION
        said = capsys.readouterr().err
        assert said.startswith(f"error: {cause}")
        assert said.rstrip().endswith(following)
    assert not (tmp_path / "no").exists()


def test_a_checkpoint_that_a_running_node_deletes_meanwhile_is_still_used(home: Path) -> None:
    root = make_node(home)
    saved = root / "checkpoints" / "00000040"
    (saved / "model" / "weights").write_text("x")
    node = trained_node(ModelOptions("small"))
    with pinned_checkpoint(node) as held:
        shutil.rmtree(saved)
        assert held.checkpoint is not None
        assert (held.checkpoint.path / "model" / "weights").read_text() == "x"
        assert held.when == node.when
        assert held.checkpoint.path.parent == root
    assert not [path for path in root.iterdir() if path.name.startswith(".")]
    with pinned_checkpoint(node) as held:  # too late
        assert held is node
