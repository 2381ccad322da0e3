"""How ``--task`` becomes the setting ``tasks``."""

from __future__ import annotations

from pathlib import Path

import pytest

from hivemind_exp.config import Config
from hivemind_exp.tasks.registry import title
from swarmctl.settings.command_line import shown_value
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


def test_a_python_file_is_a_task_named_after_itself() -> None:
    (task,) = Config(tasks="some/mine.py").tasks
    assert (task.name, task.path, title(task)) == ("python-file", "some/mine.py", "mine.py")
    assert shown_value([task.model_dump(), "sapo"]) == "mine.py, sapo"
    assert title(Config().tasks[0]) == "sapo"
