"""``swarmctl quarantine``: who is quarantined, and lifting it."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from hivemind_exp.journal.canary_log import Suspect, read_quarantine, write_quarantine
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Manifest
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.swarm.identity import animal_name
from swarmctl import cli
from swarmctl.errors import Exit
from tests.support.journals import SWARM, bare_node

PEER = "12D3KooWGC7PuG8iX3gLdZPzZRzTbLiZqYdkh1RbpVjfKNkbzRPm"


@pytest.fixture
def node(home: Path) -> NodeFiles:
    """A node that has played 20 rounds. The quarantine of "old" is over."""
    files = bare_node()
    with closing(Journal(files.journal, SWARM)) as journal:
        journal.commit(Manifest(0, 19, 0, 1, ()))
    write_quarantine(files.quarantine, (Suspect("old", 1, 20), Suspect(PEER, 10, 60), Suspect("openai", 10, 60)))
    return files


def test_it_lists_who_is_quarantined_until_when(node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["quarantine", "maths"]) == Exit.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        f"peer {animal_name(PEER)}: quarantined since round 10, until round 60 ({PEER})",
        "provider openai: quarantined since round 10, until round 60",
        "To lift a quarantine:",
    ]
    assert lines[3].endswith("swarmctl quarantine maths --lift all")


def test_one_of_them_is_lifted(node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["quarantine", "maths", "--lift", "openai"]) == Exit.DONE
    said = capsys.readouterr().out
    assert said.startswith("Node maths learns from provider openai again.\n")
    assert f"--lift {PEER}" in said
    assert read_quarantine(node.quarantine) == (Suspect(PEER, 10, 60),)


def test_all_are_lifted(node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["quarantine", "maths", "--lift", "all", "--json"]) == Exit.DONE
    assert json.loads(capsys.readouterr().out) == {
        "schema": 1,
        "node": "maths",
        "round": 20,
        "sources": [],
        "lifted": [PEER, "openai"],
    }
    assert cli.run(["quarantine", "maths"]) == Exit.DONE
    assert capsys.readouterr().out == "Node maths has no quarantined peers or providers.\n"


def test_someone_else_is_an_error(node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["quarantine", "maths", "--lift", "old"]) == Exit.CONFIGURATION
    assert "node maths has not quarantined old" in capsys.readouterr().err


def test_a_damaged_file_is_an_error(node: NodeFiles, capsys: pytest.CaptureFixture[str]) -> None:
    node.quarantine.write_text("{")
    assert cli.run(["quarantine", "maths"]) == Exit.CONFIGURATION
    assert "quarantine.json is damaged" in capsys.readouterr().err
