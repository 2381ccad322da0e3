"""The settings of a node's latest run, and where each came from."""

from typing import Any

from hivemind_exp.config import Config
from hivemind_exp.node_files import NodeFiles
from swarmctl.settings.command_line import shown_value
from swarmctl.settings.schema import dotted, flatten
from swarmctl.storage.json_file import read_json
from swarmctl.terminal.safe_text import masked, without_keys

_SECRET = ("swarm.join",)
"""Settings with which anyone can join the node's swarm."""


def configuration(files: NodeFiles) -> dict[str, Any]:
    """Return the profile and the settings of a node's latest run; without settings if it never ran.

    ``origin`` is None in nodes of earlier versions, which did not record it. Keys and invitations are hidden.
    """
    record = read_json(files.config) or {}
    config, origins = record.get("config"), record.get("origins")
    if not isinstance(config, dict):
        return {"profile": None, "settings": []}
    usual = {dotted(path): value for path, value in flatten(Config().model_dump(mode="json"))}
    recorded = isinstance(origins, dict)
    rows = []
    for path, value in flatten(without_keys(config)):
        key = dotted(path)
        hidden = key in _SECRET and bool(value)
        rows.append(
            {
                "key": key,
                "value": masked(str(value)) if hidden else value,
                "shown": masked(str(value)) if hidden else _shown(value),
                "origin": (origin := _origin(key, origins) if recorded else None),
                "default": value == usual.get(key) or origin == "default",
            }
        )
    return {"profile": str(record.get("profile")), "settings": rows}


def _origin(key: str, origins: Any) -> str:
    """Return a setting's origin, or that of the table that contains it."""
    while key and key not in origins:
        key = key.rpartition(".")[0]
    return str(origins.get(key, "default"))


def _shown(value: Any) -> str:
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "; ".join(_table(item) if isinstance(item, dict) else shown_value(item) for item in value)
    return _table(value) if isinstance(value, dict) else shown_value(value)


def _table(table: dict[str, Any]) -> str:
    """Return a task or a provider on one line, without what is unset."""
    name = shown_value(table["name"]) if "name" in table else ""
    rest = {key: value for key, value in table.items() if key != "name" and value not in (None, {}, "", [])}
    parts = [
        f"{key} {f'({_table(value)})' if isinstance(value, dict) else shown_value(value)}"
        for key, value in rest.items()
    ]
    return " ".join(filter(None, [name, f"({', '.join(parts)})" if name and parts else ", ".join(parts)]))
