"""What every display of a run can do: the live view, plain lines, or nothing."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from swarmctl.terminal.progress import RunView


class Display(AbstractContextManager["Display"], Protocol):
    """Shows people what happens."""

    def event(self, event: dict[str, Any], progress: RunView, /) -> None:
        """Show one event, which ``progress`` has already taken."""

    def tick(self, progress: RunView, /) -> None:
        """Called several times a second."""

    def note(self, text: str) -> None:
        """Say one sentence."""
