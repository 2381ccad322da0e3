"""``swarmctl profiles list``: list named profiles, without resolving their settings."""

import sys
from pathlib import Path
from typing import Any

from hivemind_exp.errors import NodeError
from swarmctl.paths import profiles_directory, shown
from swarmctl.settings.profile_files import builtin_names, chosen, known_profiles, read
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.table import print_table
from swarmctl.terminal.views import Writer


def list_profiles(*, as_json: bool) -> None:
    """Print all named profiles."""
    rows = [_row(name, path) for name, path in known_profiles().items()]
    if as_json:
        print_json(profiles=rows)
        return
    print_table(
        [
            [
                f"{'*' if row['default'] else ' '} {row['name']}",
                "built-in" if row["builtin"] else "yours",
                row["error"] or row["description"] or "",
            ]
            for row in rows
        ]
    )
    write = Writer(sys.stdout)
    write("")
    write(f"* used by `swarmctl run` without --profile. Your profiles are in {shown(profiles_directory())}.")


def _row(name: str, path: Path) -> dict[str, Any]:
    own = path.parent == profiles_directory()
    try:
        profile, problem = read(path), None
    except NodeError as error:
        profile, problem = None, error.message
    return {
        "name": name,
        "path": str(path),
        "builtin": not own,
        "hides_builtin": own and name in builtin_names(),
        "description": profile and profile.description,
        "extends": profile and profile.extends,
        "default": name == chosen(None),
        "error": problem,
    }
