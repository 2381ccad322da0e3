"""``run.json`` survives a crash, and a damaged one counts as missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from hivemind_exp.run_record import RunRecord, read_record, write_record

RECORD = RunRecord(begun=True, start={"event": "start"}, stop={"event": "stop", "reason": "done"})


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_record(tmp_path / "run.json", RECORD)
    assert read_record(tmp_path / "run.json") == RECORD


@pytest.mark.parametrize("content", ["", "null", "[]", "{}", "[" * 100_000, '"begun"', "\0" * 90])
def test_a_damaged_record_counts_as_missing(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    assert read_record(tmp_path / "run.json") is None


@pytest.mark.parametrize(("name", "value"), [("begun", '"x"'), ("stop", '"done"'), ("start", "[]"), ("error", "5")])
def test_a_record_with_a_wrong_type_counts_as_missing(tmp_path: Path, name: str, value: str) -> None:
    fields = {"begun": "true", "start": "null", "error": "null", "stop": "null"} | {name: value}
    (tmp_path / "run.json").write_text("{" + ", ".join(f'"{key}": {text}' for key, text in fields.items()) + "}")
    assert read_record(tmp_path / "run.json") is None
