"""Stop requests: how to ask a node to stop, and how its parts notice."""

import threading


class StopRequested(Exception):
    """Raised between two pieces of work after a stop was requested. Unfinished work leaves no trace."""


class StopFlag(threading.Event):
    """Set from a signal handler or another thread, and checked wherever work can be interrupted."""

    def check(self) -> None:
        """Raise ``StopRequested`` if a stop was requested."""
        if self.is_set():
            raise StopRequested
