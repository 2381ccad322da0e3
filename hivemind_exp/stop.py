"""How a node is asked to stop, and how its parts find out."""

import threading


class StopRequested(Exception):
    """Raised between two pieces of work once a stop was asked for; what was under way left no trace."""


class StopFlag(threading.Event):
    """Set from a signal handler or another thread; looked at wherever work can be left off."""

    def check(self) -> None:
        """Raise ``StopRequested`` if the stop was asked for."""
        if self.is_set():
            raise StopRequested
