"""A connection to a command, for tests in one process."""

from __future__ import annotations

import json
from typing import Any

from hivemind_exp.trained.link import Link


class RecordedLink(Link):
    """Keeps the events that a mode emits; ``say`` holds the messages that it will receive."""

    def __init__(self, *say: dict[str, Any]) -> None:
        self.all: list[dict[str, Any]] = []
        super().__init__(write=lambda line: self.all.append(json.loads(line)))
        for message in say:
            self.put(message)

    def of(self, event: str) -> list[dict[str, Any]]:
        return [fields for fields in self.all if fields["event"] == event]
