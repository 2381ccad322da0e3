"""``swarmctl profiles validate``: every problem in one profile, or in all of them."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hivemind_exp.errors import NodeError
from hivemind_exp.tasks.registry import check_tasks
from swarmctl.errors import Exit
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.checks import check_config
from swarmctl.settings.problems import Problem
from swarmctl.settings.profile_files import Profile
from swarmctl.settings.resolve import problems_of
from swarmctl.settings.sources import Override
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.views import Writer
from swarmctl.terminal.waiting import waiting


def validate_profiles(name: str | None, *, as_json: bool) -> Exit:
    """Check one profile, or all named ones, and print every problem."""
    paths = [profiles.find(name)] if name else list(profiles.known_profiles().values())
    reports = [(path.stem, str(path), _problems(path)) for path in paths]
    ok = not any(problems for _, _, problems in reports)
    if as_json:
        print_json(ok=ok, profiles=[_report(*report) for report in reports])
    else:
        write = Writer(sys.stdout)
        for stem, _, problems in reports:
            for line in [str(problem) for problem in problems] or ["ok"]:
                write(f"{stem}: {line}", indent="  ")
    return Exit.DONE if ok else Exit.CONFIGURATION


def _problems(path: Path) -> list[Problem]:
    try:
        with waiting(Writer(sys.stderr), f"checking {path.name}"):
            return profile_problems(profiles.read(path))
    except NodeError as error:
        return [Problem("", error.message, None, str(path))]


def profile_problems(profile: Profile, overrides: Sequence[Override] = ()) -> list[Problem]:
    """Return every problem in a profile, including those that only a run would find.

    Raises ConfigurationError if ``extends`` cannot be resolved.
    """
    resolved, problems = problems_of(profile, overrides)
    if resolved is not None:
        key = "tasks"
        try:
            check_tasks(resolved.config.tasks)
            key = ""
            check_config(resolved.config)
        except NodeError as error:
            return [Problem(key, f"{key}: {error.message}" if key else error.message, None, profile.label)]
    return problems


def _report(name: str, path: str, problems: list[Problem]) -> dict[str, Any]:
    found = [{"key": p.key or None, "message": p.message, "nearest": p.nearest} for p in problems]
    return {"name": name, "path": path, "ok": not problems, "problems": found}
