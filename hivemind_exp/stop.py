"""How a node is asked to stop, and how its parts find out."""

import threading


class StopRequested(Exception):
    """Raised between two pieces of work once a stop was asked for; what was under way left no trace."""


class StopFlag:
    """Set from a signal handler or another thread; looked at wherever work can be left off."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask for the stop."""
        self._event.set()

    def is_set(self) -> bool:
        """Say whether the stop was asked for."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise ``StopRequested`` if the stop was asked for."""
        if self._event.is_set():
            raise StopRequested
