"""``swarmctl profiles validate``: every problem of one profile, or of all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hivemind_exp.errors import NodeError
from hivemind_exp.tasks.registry import check_tasks
from swarmctl.errors import Exit
from swarmctl.paths import profiles_directory, shown
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.profile_files import builtin_names, chosen, known_profiles, read
from swarmctl.settings.resolve import Problem, override, problems_of, resolve
from swarmctl.settings.schema import dotted, settings
from swarmctl.settings.toml_text import as_toml, origin_of
from swarmctl.terminal.safe_text import clean, without_keys


def validate_profiles(name: str | None, *, as_json: bool) -> Exit:
    """Check one profile or all that have a name; print every problem."""
    paths = [profiles.find(name)] if name else list(profiles.known_profiles().values())
    reports = [(path.stem, str(path), _problems(path)) for path in paths]
    ok = not any(problems for _, _, problems in reports)
    if as_json:
        print(json.dumps({"schema": 1, "ok": ok, "profiles": [_report(*report) for report in reports]}))
    else:
        for stem, _, problems in reports:
            for line in [str(problem) for problem in problems] or ["ok"]:
                print(clean(f"{stem}: {line}"))
    return Exit.DONE if ok else Exit.CONFIGURATION


def _problems(path: Path) -> list[Problem]:
    try:
        profile = profiles.read(path)
        resolved, problems = problems_of(profile)
    except NodeError as error:
        return [Problem("", error.message, None, str(path))]
    if resolved is None:
        return problems
    try:
        check_tasks(resolved.config.tasks)
    except NodeError as error:
        return [Problem("tasks", f"tasks: {error.message}", None, profile.label)]
    return []


def _report(name: str, path: str, problems: list[Problem]) -> dict[str, Any]:
    found = [{"key": p.key or None, "message": p.message, "nearest": p.nearest} for p in problems]
    return {"name": name, "path": path, "ok": not problems, "problems": found}


def list_profiles(*, as_json: bool) -> None:
    """Print the profiles that have a name."""
    used = chosen(None)
    rows = [_row(name, used) for name in known_profiles()]
    if as_json:
        print(json.dumps({"schema": 1, "profiles": rows}))
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        mark = "*" if row["default"] else " "
        source = "built-in" if row["builtin"] else "yours"
        print(clean(f"{mark} {row['name']:<{width}}  {source:<8}  {row['error'] or row['description'] or ''}".rstrip()))
    print(f"\n* is what `swarmctl run` uses. Yours are in {shown(profiles_directory())}.")


def _row(name: str, used: str) -> dict[str, Any]:
    path = known_profiles()[name]
    row: dict[str, Any] = {
        "name": name,
        "path": str(path),
        "builtin": path.parent != profiles_directory(),
        "hides_builtin": path.parent == profiles_directory() and name in builtin_names(),
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


def show_profile(name: str | None, assignments: tuple[str, ...], *, origin: bool, as_json: bool) -> None:
    """Print the configuration a profile leads to here and now. Raises ConfigurationError."""
    profile = profiles.read(profiles.find(profiles.chosen(name)))
    resolved = resolve(profile, [override(text) for text in assignments], os.environ)
    if not as_json:
        print(clean(as_toml(resolved, origins=origin)), end="")
        return
    keys = [dotted(path) for path in settings()]
    shown = {
        "schema": 1,
        "name": profile.name,
        "path": str(profile.path),
        "config": without_keys(resolved.config.model_dump(mode="json")),
        "origins": {key: origin_of(resolved, key) for key in keys},
    }
    print(json.dumps(shown))
