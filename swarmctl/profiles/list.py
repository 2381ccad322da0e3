"""``swarmctl profiles list``: the profiles that have a name. Light: it resolves none of them."""

import json
from typing import Any

from hivemind_exp.errors import NodeError
from swarmctl.paths import profiles_directory, shown
from swarmctl.settings.profile_files import builtin_names, chosen, known_profiles, read
from swarmctl.terminal.table import print_table


def list_profiles(*, as_json: bool) -> None:
    """Print the profiles that have a name."""
    used = chosen(None)
    rows = [_row(name, used) for name in known_profiles()]
    if as_json:
        print(json.dumps({"schema": 1, "profiles": rows}))
        return
    print_table([_cells(row) for row in rows])
    print(f"\n* is what `swarmctl run` uses. Yours are in {shown(profiles_directory())}.")


def _cells(row: dict[str, Any]) -> list[str]:
    source = "built-in" if row["builtin"] else "yours"
    return [f"{'*' if row['default'] else ' '} {row['name']}", source, row["error"] or row["description"] or ""]


def _row(name: str, used: str) -> dict[str, Any]:
    path = known_profiles()[name]
    own = path.parent == profiles_directory()
    row: dict[str, Any] = {
        "name": name,
        "path": str(path),
        "builtin": not own,
        "hides_builtin": own and name in builtin_names(),
        "description": None,
        "extends": None,
        "default": name == used,
        "error": None,
    }
    try:
        profile = read(path)
    except NodeError as error:
        return row | {"error": error.message}
    return row | {"description": profile.description, "extends": profile.extends}
