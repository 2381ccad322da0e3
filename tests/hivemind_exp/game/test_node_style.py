"""A node's prompt style: what its settings say, else what its calibration recorded, else tags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import Config
from hivemind_exp.errors import FileProblem, NewerFormat
from hivemind_exp.game.node_style import node_style, write_style
from hivemind_exp.game.prompt_style import TAGS_STYLE, PromptStyle
from hivemind_exp.node_files import NodeFiles

CHOSEN = PromptStyle("boxed", 3, system=False, thinking=True)


def style(root: Path, model: dict[str, Any] | None = None, **prompt: Any) -> PromptStyle:
    return node_style(Config.model_validate({"prompt": prompt, "model": model or {}}), NodeFiles(root))


def test_a_node_without_a_record_asks_in_tags(tmp_path: Path) -> None:
    assert style(tmp_path) == TAGS_STYLE


def test_the_record_is_used_and_settings_come_first(tmp_path: Path) -> None:
    write_style(tmp_path / "prompt.json", CHOSEN, {"right": 0.5})
    assert style(tmp_path) == CHOSEN
    assert style(tmp_path, examples=1, system=True) == PromptStyle("boxed", 1, system=True, thinking=True)
    assert style(tmp_path, {"thinking": False}) == PromptStyle("boxed", 3, system=False, thinking=False)
    assert style(tmp_path, style="plain") == PromptStyle("plain", 0, system=False)


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "[]",
        '{"schema": 1}',
        '{"schema": 1, "style": {}}',
        *(
            json.dumps(
                {"schema": 1, "style": {"form": "tags", "examples": 0, "system": True, "thinking": None} | wrong}
            )
            for wrong in ({"form": "song"}, {"examples": 9}, {"examples": "x"}, {"system": None}, {"more": 1})
        ),
    ],
)
def test_a_damaged_record_is_refused_and_not_needed_if_the_style_is_set(tmp_path: Path, stored: str) -> None:
    (tmp_path / "prompt.json").write_text(stored)
    with pytest.raises(FileProblem, match="is damaged"):
        style(tmp_path)
    assert style(tmp_path, style="tags") == TAGS_STYLE


def test_a_newer_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prompt.json").write_text('{"schema": 99}')
    with pytest.raises(NewerFormat):
        style(tmp_path)
