"""Read ``events.jsonl`` while it is being written."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from swarmctl.storage.followed_file import FollowedFile


class EventReader:
    """Yields the events appended since the last call. The file need not exist yet.

    ``whole``: the first call also yields the events that are already in the file.
    """

    def __init__(self, path: Path, *, whole: bool = False) -> None:
        self._file = FollowedFile(path, whole=whole)
        self._rest = b""

    def __call__(self) -> Iterator[dict[str, Any]]:
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        yield from _events(lines)


def _events(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the events in ``lines``, without lines that a crash or a full disk cut short."""
    for line in lines:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str) and isinstance(event.get("t"), int | float):
            yield event


def all_of(path: Path, *names: str) -> Iterator[dict[str, Any]]:
    """Yield all events with these names in the file."""
    marks = [f'"event": "{name}"'.encode() for name in names]
    with suppress(FileNotFoundError), path.open("rb") as lines:
        yield from _events(line for line in lines if any(mark in line for mark in marks))


def recent(path: Path, size: int = 1 << 18) -> Iterator[dict[str, Any]]:
    """Yield the events in the last ``size`` bytes of the file."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        start = max(0, file.seek(0, os.SEEK_END) - size)
        file.seek(start)
        yield from _events(file.read().split(b"\n")[1 if start else 0 :])
