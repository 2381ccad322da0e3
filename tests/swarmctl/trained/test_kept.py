"""A checkpoint stays while a command uses it, although its node deletes old checkpoints."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.node_files import NodeFiles
from hivemind_exp.trainer.checkpoints import damage
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.trained import kept as module
from swarmctl.trained.kept import kept
from swarmctl.trained.target import ModelOptions, TrainedNode, trained_node
from tests.swarmctl.trained.conftest import make_node


@pytest.fixture
def node(home: Path) -> TrainedNode:
    """A node with a checkpoint."""
    make_node(home)
    return trained_node(ModelOptions("small"))


def path_of(node: TrainedNode) -> Path:
    assert node.checkpoint is not None
    return node.checkpoint.path


def links(node: TrainedNode) -> list[Path]:
    return list(node.files.root.glob(".in-use-*"))


def test_a_checkpoint_that_its_node_deletes_can_still_be_used(node: TrainedNode) -> None:
    with kept(node) as used:
        shutil.rmtree(path_of(node))
        assert damage(path_of(used)) is None
        assert used.at() == node.at()
    assert links(node) == []


def test_the_model_before_training_needs_no_links(node: TrainedNode) -> None:
    base = replace(node, checkpoint=None)
    with kept(base) as used:
        assert used is base
        assert links(node) == []


def test_without_links_the_checkpoint_itself_is_used(node: TrainedNode, tmp_path: Path) -> None:
    elsewhere = replace(node, files=NodeFiles(tmp_path / "missing"))
    with kept(elsewhere) as used:
        assert path_of(used) == path_of(node)


def test_a_checkpoint_that_is_gone_already_is_reported_by_what_loads_it(node: TrainedNode) -> None:
    shutil.rmtree(path_of(node))
    with kept(node) as used:
        assert path_of(used) == path_of(node)
    assert links(node) == []


def test_links_of_a_killed_command_are_removed_and_those_in_use_stay(node: TrainedNode) -> None:
    leftover = node.files.root / f"{module._PREFIX}killed"
    (leftover / "00000040").mkdir(parents=True)
    with kept(node) as first, kept(node) as second:
        assert not leftover.exists()
        assert path_of(first).is_dir()
        assert path_of(second).is_dir()


@pytest.mark.parametrize(
    ("process", "command"),
    [
        ("sample", ["sample", "small", "--json"]),
        ("chat", ["chat", "small"]),
        ("evaluation", ["eval", "small", "--json"]),
        ("merge", ["export", "small", "DIRECTORY", "--merge"]),
    ],
)
def test_every_command_uses_links(home: Path, scripted: Any, process: str, command: list[str]) -> None:
    root = make_node(home, model={"name": "org/model", "lora": {}})
    started = scripted(process, [KeyboardInterrupt()])
    assert cli.run([word.replace("DIRECTORY", str(home / "out")) for word in command]) == Exit.INTERRUPTED
    used = path_of(started["node"])
    assert used.parent.parent == root
    assert used.name == "00000040"
    assert not used.exists()
