"""Small files with one JSON object, and their timestamps."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hivemind_exp import atomic_write


def rfc3339(seconds: float) -> str:
    """Return a time in Unix seconds as RFC 3339 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def now() -> str:
    """Return the current time as RFC 3339 in UTC."""
    return rfc3339(time.time())


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in a file, or None if there is none or it cannot be read."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace a file atomically, so that neither a reader nor a crash ever sees half of it."""
    atomic_write.write(path, json.dumps(value, indent=2) + "\n")
