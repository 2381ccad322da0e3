"""Environments that were tried out, so that not every command loads them again: that takes seconds.

The outcome is kept in the environment's virtual environment, and with it deleted. It holds for the same parameters,
installed versions, and code here. A node's own workers load the environment anyway, so they notice what has changed
since, such as data on the hub.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from hivemind_exp import atomic_write
from hivemind_exp.tasks.base import TaskSpec
from hivemind_exp.tasks.environments import Installation

FILE = "tried.json"
MOST = 100
"""The number of outcomes that are kept; the oldest ones are dropped."""


def converses(spec: TaskSpec) -> bool | None:
    """Return whether the questions of an environment are conversations; None if it has not been tried out."""
    found = _kept(Installation.of(spec.name)).get(_digest(spec))
    return found if isinstance(found, bool) else None


def keep(spec: TaskSpec, *, converses: bool) -> None:
    """Keep what was found out about an installed environment. If it cannot be written, it is found out again."""
    place = Installation.of(spec.name)
    kept = [*(_kept(place) | {_digest(spec): converses}).items()]
    with suppress(OSError):
        atomic_write.write(place.directory / FILE, json.dumps(dict(kept[-MOST:])))


def _kept(place: Installation) -> dict[str, object]:
    try:
        kept = json.loads((place.directory / FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return dict(kept) if isinstance(kept, Mapping) else {}


def _digest(spec: TaskSpec) -> str:
    """Return a SHA-256 (hex) over what decides whether an environment can be used. Its place among others does not."""
    about = [asdict(replace(spec, label="")), Installation.of(spec.name).versions]
    found = hashlib.sha256(json.dumps(about, sort_keys=True, default=repr).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()
