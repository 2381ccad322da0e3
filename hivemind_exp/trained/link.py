"""The connection to the command that started this process: JSON lines, both ways."""

import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from hivemind_exp.events import Event, WarningEvent
from hivemind_exp.stop import StopFlag


@dataclass(eq=False)
class Link:
    """Sends events and receives messages. The process ends when its standard input does: the command is gone."""

    stop: StopFlag = field(default_factory=StopFlag)
    """Set by Ctrl-C."""
    write: Callable[[str], object] | None = None
    """Writes one line. None: to standard output, which libraries can then no longer use."""
    _messages: SimpleQueue[dict[str, Any]] = field(default_factory=SimpleQueue)

    def __post_init__(self) -> None:
        if self.write is None:
            output = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
            os.dup2(2, 1)
            self.write = output.write

    def listen(self) -> None:
        """Start to receive messages."""
        threading.Thread(target=self._listen, daemon=True).start()

    def emit(self, event: str, **fields: Any) -> None:
        """Send one event."""
        assert self.write is not None
        self.write(json.dumps({"event": event, **fields}) + "\n")

    def hear(self, event: Event) -> None:
        """Pass on a warning. Leaves out other events."""
        if isinstance(event, WarningEvent):
            self.emit("warning", message=event.message)

    def phase(self, name: str) -> None:
        """Report what takes a while now. Raises ``StopRequested``."""
        self.stop.check()
        self.emit("phase", name=name)

    def receive(self) -> dict[str, Any]:
        """Wait for the next message."""
        return self._messages.get()

    def put(self, message: dict[str, Any]) -> None:
        """Add a message, as if it had been received."""
        self._messages.put(message)

    def _listen(self) -> None:
        for line in sys.stdin.buffer:
            self.put(json.loads(line))
        os._exit(1)
