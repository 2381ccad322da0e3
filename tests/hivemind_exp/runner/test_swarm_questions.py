"""Nodes of one swarm ask the same questions, however many of them each asks in a round."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from hivemind_exp.config import Config
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import make_mixture

CHARTER = "c" * 64


def questions(root: Path, groups: int, charter: str | None) -> Mapping[int, str]:
    """Return a round's questions of a new node, by index."""
    path = root / "set.jsonl"
    path.write_text("".join(json.dumps({"question": f"{n}?", "answer": str(n)}) + "\n" for n in range(300)))
    node = root / f"node-{groups}-{charter is None}"
    node.mkdir()
    swarm = {} if charter is None else {"swarm": {"join": f"swarm1:{charter}"}}
    settings = {"tasks": [{"name": "jsonl", "path": str(path)}], "game": {"groups": groups}, "eval": {"questions": 4}}
    with closing(make_mixture(Config.model_validate(settings | swarm), NodeFiles(node))) as made:
        return {each.index: each.text for each in made.questions("train", 5, groups)}


@pytest.mark.slow
def test_nodes_that_ask_different_numbers_of_questions_agree_on_those_of_a_set(tmp_path: Path) -> None:
    few, usual, many = (questions(tmp_path, groups, CHARTER) for groups in (4, 8, 32))
    for one, other in ((few, usual), (few, many), (usual, many)):
        both = one.keys() & other.keys()  # each leaves out the few that it holds out
        assert len(both) >= 3
        assert {index: one[index] for index in both} == {index: other[index] for index in both}
