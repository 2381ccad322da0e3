"""The prompt style of a node: from its settings, or as its calibration chose it."""

import shlex
from contextlib import suppress
from dataclasses import asdict, fields, replace
from json import dumps
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from hivemind_exp import atomic_write
from hivemind_exp.config import Config
from hivemind_exp.errors import FileProblem
from hivemind_exp.formats import FORMAT, read_object
from hivemind_exp.game.prompt_style import PromptStyle, configured
from hivemind_exp.node_files import NodeFiles

_STYLE = TypeAdapter(PromptStyle)
_LEVELS = TypeAdapter(dict[str, Annotated[int, Field(ge=0)]])


def node_style(config: Config, files: NodeFiles) -> PromptStyle:
    """Return the style that the node asks in. A node that was never calibrated uses tags, as earlier versions did.

    Settings that are not "auto" come first. Raises ``FileProblem`` for a damaged record, ``NewerFormat`` for a newer
    one.
    """
    settings, fixed = config.prompt, configured(config.prompt, config.model.thinking)
    chosen = None if settings.style != "auto" else read_style(files.prompt)
    if chosen is None:
        return fixed
    return replace(
        chosen,
        examples=chosen.examples if settings.examples == "auto" else settings.examples,
        system=chosen.system if settings.system is None else settings.system,
        thinking=chosen.thinking if config.model.thinking is None else config.model.thinking,
    )


def read_style(path: Path) -> PromptStyle | None:
    """Return the style in a calibration's record; None if there is no record. Raises as ``node_style`` does."""
    stored = read_object(path)
    if stored is None:
        return None
    style = stored.get("style")
    with suppress(ValidationError):
        if isinstance(style, dict) and style.keys() == {each.name for each in fields(PromptStyle)}:
            return _STYLE.validate_python(style)
    raise FileProblem(
        f"{path} is damaged: it has no valid prompt style. If you set prompt.style, the node does not need the file",
        next=shlex.join(["cat", str(path)]),
    )


def read_levels(path: Path) -> dict[str, int]:
    """Return the levels in a calibration's record at which tasks start. Raises as ``node_style`` does."""
    stored = (read_object(path) or {}).get("found")
    levels = stored.get("levels", {}) if isinstance(stored, dict) else {}
    with suppress(ValidationError):
        return _LEVELS.validate_python(levels)
    raise FileProblem(f"{path} is damaged: it has no valid levels", next=shlex.join(["cat", str(path)]))


def write_style(path: Path, style: PromptStyle, found: dict[str, Any]) -> None:
    """Record a calibration: the style that it chose, and what it found."""
    record = {"schema": FORMAT, "style": asdict(style), "found": found}
    atomic_write.write(path, dumps(record) + "\n")
