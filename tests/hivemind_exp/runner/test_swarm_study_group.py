"""A study group over the real network code: by the charter's clock, each node shows the other's outputs."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.node_files import NodeFiles
from tests.support.patience import Patience
from tests.support.swarm_nodes import PATIENCE_S, events, found, peer_of, playing

pytestmark = pytest.mark.swarm

SLOT = 5


def shown(root: Path) -> dict[str, set[str]]:
    """Return, for each later stage, the peers whose text was in a node's prompts."""
    found: dict[str, set[str]] = {"critique": set(), "resolve": set()}
    if NodeFiles(root).journal.exists():
        rows: list[Any] = []
        with closing(sqlite3.connect(NodeFiles(root).journal)) as db, suppress(sqlite3.OperationalError):
            rows = db.execute("SELECT stage, body FROM notes").fetchall()  # the table may not exist yet
        for stage, body in rows:
            notes = json.loads(body)
            found[stage] |= {each["peer"] for each in [*notes["students"], *notes.get("critics", [])]}
    return found


def test_two_nodes_show_each_others_answers_and_critiques(tmp_path: Path) -> None:
    roots = [tmp_path / name for name in ("one", "two")]
    rules, invitation = found(roots[0], game="study-group", stage_time=SLOT)
    # The charter sets the game.
    own = {"game": {"groups": 2}, "generation": {"max_prompt_tokens": 700}}
    with playing(dict.fromkeys(roots, own), invitation) as nodes:
        patience = Patience(PATIENCE_S)
        both = {True}
        while not patience.is_over():
            time.sleep(0.5)
            assert all(node.is_alive() for node in nodes), [events(root, "error") for root in roots]
            others = {
                root: peer_of(other) for root, other in zip(roots, reversed(roots), strict=True) if _has_key(other)
            }
            seen = [others.get(root) in peers for root in roots for peers in shown(root).values()]
            if set(seen) == both:
                break
    assert set(seen) == both, "some node's text was never shown"
    assert {event["stage"] for root in roots for event in events(root, "rollouts")} >= {"answer", "critique"}
    assert not any(event["source"] == "peer" for root in roots for event in events(root, "rollouts"))
    assert NodeFiles(roots[1]).charter.read_bytes() == NodeFiles(roots[0]).charter.read_bytes()
    assert rules.game == "study-group"


def _has_key(root: Path) -> bool:
    """Return whether a node has its identity. It is created before the journal."""
    return NodeFiles(root).journal.exists()
