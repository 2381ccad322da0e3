"""Read a node's log while it is being written: ``events.jsonl`` and its older parts."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hivemind_exp.event_files import lines, tail
from swarmctl.storage.followed_file import FollowedFile

_AT_ONCE = 1 << 22
"""Bytes in memory at once."""
_NAME = b'"event": "'
"""What is before an event's name."""


class EventReader:
    """Yields the events appended since the last call. The file need not exist yet.

    ``whole``: the first call also yields the events that are already in the log.
    """

    def __init__(self, path: Path, *, whole: bool = False) -> None:
        self._file = FollowedFile(path, whole=whole)
        self._rest = b""

    def __call__(self) -> Iterator[dict[str, Any]]:
        while data := self._file.read(_AT_ONCE):
            *complete, self._rest = (self._rest + data).split(b"\n")
            yield from _events(complete)


def _events(texts: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the events in ``lines``, without lines that a crash or a full disk cut short."""
    for line in texts:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str) and isinstance(event.get("t"), int | float):
            yield event


def all_of(path: Path, *names: str) -> Iterator[dict[str, Any]]:
    """Yield all events with these names in the log."""
    wanted = {name.encode() for name in names}
    yield from _events(line for line in lines(path) if _name(line) in wanted)


def _name(line: bytes) -> bytes:
    """Return an event's name without parsing the line, which would take ten times as long."""
    start = line.find(_NAME) + len(_NAME)
    return line[start : line.find(b'"', start)]


def recent(path: Path, size: int = 1 << 18) -> Iterator[dict[str, Any]]:
    """Yield the events in the last ``size`` bytes of the log."""
    yield from _events(tail(path, size))
