"""A teacher in the study group: later stages still show an own answer, and learn from outcomes alone."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from hivemind_exp.node_files import NodeFiles
from tests.support.fake_api.server import api_server
from tests.support.nodes import make_config, run
from tests.support.teachers import two_letters

pytestmark = pytest.mark.slow


def test_a_teacher_fills_stages_and_the_node_still_shows_its_own_answer(tmp_path: Path) -> None:
    with api_server(answer=two_letters) as server:
        box = {"base_url": server.base_url, "model": "test-model", "group": "n", "free": True}
        config = make_config(
            game={"kind": "study-group", "rounds": 2, "groups": 2},
            generation={"max_prompt_tokens": 700, "max_completion_tokens": 24},
            offload={"provider": "box", "stages": ["answer", "critique"], "fallback": []},
            providers={"box": box},
        )
        progress = run(config, tmp_path)
    assert (progress.round, progress.step) == (2, 6)
    with closing(sqlite3.connect(NodeFiles(tmp_path).journal)) as db:
        made = db.execute("SELECT stage, kind, COUNT(*) FROM completions GROUP BY stage, kind").fetchall()
        notes = [json.loads(body) for (body,) in db.execute("SELECT body FROM notes")]
        own = {
            (question, place)
            for question, place in db.execute(
                "SELECT question, idx FROM completions WHERE stage = 'answer' AND kind = 'policy'"
            )
        }
        asked = db.execute("SELECT question, body FROM notes").fetchall()
    assert sorted(made) == [
        ("answer", "policy", 4), ("answer", "teacher", 12), ("critique", "teacher", 16), ("resolve", "policy", 16),
    ]  # fmt: skip
    assert len(notes) == 8
    for question, body in asked:
        assert {(question, student["place"]) for student in json.loads(body)["students"]} & own
