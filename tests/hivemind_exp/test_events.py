"""The node's log for machines."""

from __future__ import annotations

import json
from pathlib import Path

from hivemind_exp.events import EventLog


def test_a_line_is_json_whatever_the_numbers_are(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log("step", loss=float("nan"), grad_norm=float("inf"), rows=3, seconds={"train": 0.5, "other": float("-inf")})
    log.close()
    [line] = (tmp_path / "events.jsonl").read_text().splitlines()
    told = json.loads(line, parse_constant=lambda name: f"not JSON: {name}")
    assert told.pop("t") > 0
    assert told == {
        "event": "step",
        "loss": None,
        "grad_norm": None,
        "rows": 3,
        "seconds": {"train": 0.5, "other": None},
    }
