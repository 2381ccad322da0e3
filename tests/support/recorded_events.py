"""A collector of a node's events. It is separate from ``nodes``, which imports the training libraries."""

from __future__ import annotations

from typing import Any

from hivemind_exp.events import Event


class Events:
    """Collects the events of a run."""

    def __init__(self) -> None:
        self.all: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: Event, /) -> None:
        self.all.append((event.event_name(), event.model_dump()))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.all if name == event]
