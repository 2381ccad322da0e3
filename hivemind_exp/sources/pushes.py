"""The pushes of a node's weights to its servers: which of them have arrived, and which a server may answer with."""

from collections.abc import Collection
from concurrent.futures import Future
from dataclasses import dataclass, field


@dataclass
class Pushes:
    """Counts pushes from 0 on, and keeps track of those under way."""

    last: int = -1
    """The serial of the last one."""
    _tracked: dict[int, Future[None]] = field(default_factory=dict)
    """By serial: those under way, those that ended since ``ended`` was called, and the last one."""
    _failed: set[int] = field(default_factory=set)

    def begin(self) -> int:
        """Return the serial of a new push. ``track`` it next."""
        self.last += 1
        return self.last

    def track(self, push: Future[None]) -> None:
        """Keep track of the push that was begun last."""
        self._tracked[self.last] = push

    def futures(self) -> Collection[Future[None]]:
        return self._tracked.values()

    @property
    def under_way(self) -> int:
        """How many have neither arrived nor failed yet."""
        return sum(not push.done() for push in self._tracked.values())

    def error(self) -> BaseException | None:
        """Return why the last push failed; None if it did not, or is still under way."""
        push = self._tracked.get(self.last)
        return push.exception() if push is not None and push.done() else None

    def answering(self, last: int) -> frozenset[int]:
        """Return the pushes that a server may answer a request with that was made after the push ``last``.

        That is the latest one that arrived, and later ones that are still under way.
        """
        found = set[int]()
        for serial in range(last, -1, -1):
            push = self._tracked.get(serial)
            ended = push is None or push.done()  # looked at once, because it may end at any moment
            if serial in self._failed or (push is not None and ended and push.exception() is not None):
                continue
            found.add(serial)
            if ended:
                break
        return frozenset(found)

    def ended(self) -> list[BaseException | None]:
        """Return how pushes ended, the oldest first: those since the last call, and the last one every time."""
        done = self._done()
        for serial, error in done:
            if error is not None:
                self._failed.add(serial)
            if serial < self.last:
                del self._tracked[serial]
        return [error for _, error in done]

    def _done(self) -> list[tuple[int, BaseException | None]]:
        return [(serial, push.exception()) for serial, push in self._tracked.items() if push.done()]
