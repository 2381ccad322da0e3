"""Where the environments of ``verifiers`` are installed, each in a virtual environment of its own.

The package needs an older ``openai`` than this program, and two environments may need different versions of it. So a
task ``env:NAME`` has its own Python, which runs the workers of that task. The command line installs it
(``swarmctl.packages.environments``). Imports nothing heavy.
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hivemind_exp.config import ENVIRONMENT
from hivemind_exp.errors import TaskError
from hivemind_exp.user_cache import user_cache

LIBRARY = "verifiers"
RECORD = "swarmctl.json"
"""A file in the virtual environment: the installed versions. It is written last, so it marks a complete one."""
_NAME = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:(?:@|==)([A-Za-z0-9][A-Za-z0-9.+!-]*))?")


@dataclass(frozen=True)
class Installation:
    """The virtual environment of one task ``env:NAME`` or ``env:NAME@VERSION``, which need not exist."""

    package: str
    """The package's name, as it was written."""
    wanted: str | None
    """The version to install; None for the newest."""
    directory: Path

    @classmethod
    def of(cls, task: str, environment: Mapping[str, str] = os.environ) -> "Installation":
        """Return the installation for a task's name. Raises ``TaskError`` if it names no package."""
        named = task.removeprefix(ENVIRONMENT)
        match = _NAME.fullmatch(named)
        if match is None:
            last = re.sub(r"[^\w.@-]", "", named.rpartition("/")[2]) or "NAME"
            why = "an owner, but the package index has none" if "/" in named else "no package"
            raise TaskError(
                f"task {task!r} names {why}. Use env:NAME or env:NAME@VERSION",
                next=f"swarmctl tasks show {ENVIRONMENT}{last}",
            )
        package, wanted = match.groups()
        normal = re.sub(r"[-_.]+", "-", package).lower()
        place = f"{normal}-{wanted}" if wanted else normal
        return cls(
            package, wanted, user_cache(environment) / "environments" / f"{place}-{sys.implementation.cache_tag}"
        )

    @property
    def module(self) -> str:
        """The name under which the environment is imported."""
        return re.sub(r"[-.]+", "_", self.package).lower()

    @property
    def python(self) -> Path:
        """The interpreter of the virtual environment."""
        return self.directory / "bin" / "python"

    @cached_property
    def versions(self) -> dict[str, str]:
        """The versions of the environment's package and of ``verifiers``, by name. Empty if not installed."""
        return versions_in(self.directory) if os.access(self.python, os.X_OK) else {}

    @property
    def origin(self) -> str:
        """What the node keeps, to notice changes: the packages and their versions."""
        return described(self.versions) or self.package


def versions_in(directory: Path) -> dict[str, str]:
    """Return the recorded versions of a virtual environment; empty if it has no record."""
    try:
        recorded = json.loads((directory / RECORD).read_bytes())["versions"]
        return {str(name): str(version) for name, version in recorded.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}


def listed(environment: Mapping[str, str] = os.environ) -> list[tuple[str, dict[str, str], str]]:
    """Return the installed environments by name: the task, the versions, and the package's summary, untrusted text."""
    found = []
    for record in sorted((user_cache(environment) / "environments").glob(f"*/{RECORD}")):
        try:
            about = json.loads(record.read_bytes())
            task, summary = str(about["task"]), str(about["summary"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if versions := Installation.of(task, environment).versions:
            found.append((task, versions, summary))
    return found


def described(versions: Mapping[str, str]) -> str:
    """Return versions as text, such as ``word-boxes 0.1.0, verifiers 0.4.0``."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())
