"""A configuration as a profile: TOML that can be saved, if wanted with the origin of each value beside it."""

from typing import Any

import tomlkit
from tomlkit.items import AoT, Table

from swarmctl.settings.resolve import Resolved
from swarmctl.terminal.safe_text import without_keys


def as_toml(resolved: Resolved, *, origins: bool) -> str:
    """Return the whole configuration as TOML. Values that are unset have no line."""
    values = without_keys(resolved.config.model_dump(mode="json", exclude_none=True))
    document = tomlkit.document()
    if resolved.profile.description:
        document.add("description", tomlkit.item(resolved.profile.description))
    for section, content in values.items():
        if isinstance(content, list):
            document.add(section, _tables(content, resolved.origin(section) if origins else None))
        else:
            document.add(section, _table(resolved, section, content, origins=origins))
    return tomlkit.dumps(document).rstrip() + "\n"


def _table(resolved: Resolved, prefix: str, content: dict[str, Any], *, origins: bool) -> Table:
    table = tomlkit.table()
    for key, value in content.items():
        name = f"{prefix}.{key}"
        if isinstance(value, dict):
            table.add(key, _table(resolved, name, value, origins=origins))
            continue
        item = tomlkit.item(value)
        if origins:
            item.comment(resolved.origin(name))
        table.add(key, item)
    return table


def _tables(entries: list[dict[str, Any]], origin: str | None) -> AoT:
    result = tomlkit.aot()
    for entry in entries:
        table = tomlkit.table()
        for key, value in entry.items():
            if isinstance(value, dict):
                inline = tomlkit.inline_table()
                inline.update(value)
                if value:
                    table.add(key, inline)
            else:
                table.add(key, value)
        if origin is not None:
            table.comment(origin)
        result.append(table)
    return result
