"""Writes a node's events to its log."""

import json
import math
import time
from pathlib import Path
from typing import Any

from hivemind_exp.event_files import LogFile
from hivemind_exp.events import Event


class EventLog:
    """Appends events to a log (``hivemind_exp.event_files``). Several processes may append to the same one."""

    def __init__(self, path: Path, *, most: int = 0) -> None:
        """``most``: bytes of the file and its older parts that are kept, 0: all. Only one process may set it."""
        self._file = LogFile(path, most)

    def __call__(self, event: Event, /) -> None:
        known = _finite({"t": round(time.time(), 3), "event": event.event_name(), **event.model_dump()})
        self._file.append(json.dumps(known, ensure_ascii=True, allow_nan=False).encode() + b"\n")

    def close(self) -> None:
        self._file.close()


def _finite(value: Any) -> Any:
    """Replace numbers that JSON cannot represent with null, so that a diverging loss does not stop the node."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
