"""Reading ``events.jsonl`` while it is being written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class EventReader:
    """Yields the events that were appended since the last call. The file need not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def __call__(self) -> Iterator[dict[str, Any]]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            event = _parsed(line)
            if event is not None:
                yield event


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return the event of a line; None for one that a crash or a full disk cut short."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(event, dict) and isinstance(event.get("event"), str) and isinstance(event.get("t"), int | float)
    return event if whole else None


def evaluations(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the ``eval`` events that are in the file already."""
    yield from all_of(path, "eval")


def all_of(path: Path, *names: str) -> Iterator[dict[str, Any]]:
    """Yield the events of these names in the whole file."""
    marks = [f'"event": "{name}"'.encode() for name in names]
    try:
        with path.open("rb") as lines:
            for line in lines:
                if any(mark in line for mark in marks) and (event := _parsed(line)) is not None:
                    yield event
    except FileNotFoundError:
        return


def recent(path: Path, size: int = 1 << 18) -> Iterator[dict[str, Any]]:
    """Yield the events in the last ``size`` bytes of the file."""
    try:
        with path.open("rb") as file:
            start = max(0, file.seek(0, os.SEEK_END) - size)
            file.seek(start)
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return
    for line in lines[1 if start else 0 :]:
        event = _parsed(line)
        if event is not None:
            yield event
