"""How ``--task`` becomes the setting ``tasks``."""

from __future__ import annotations

from pathlib import Path

import pytest

from hivemind_exp.config import Config
from swarmctl.settings.options import tasks_text
from swarmctl.settings.resolve import given


def test_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sums, easy.jsonl").touch()
    for tasks, wanted in [
        (["sapo,gsm8k"], ["sapo", "gsm8k"]),
        (["sapo", "sums, easy.jsonl"], ["sapo", "sums, easy.jsonl"]),
        (["sapo,other.jsonl"], ["sapo", "other.jsonl"]),
    ]:
        text = tasks_text(tasks)
        assert text is not None
        found = Config(tasks=given("--task", "tasks", text).value).tasks
        assert [(task.path and Path(task.path).name) or task.name for task in found] == wanted
    assert tasks_text(None) is None
