"""A dictionary that forgets, for what peers can make grow."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedDict(MutableMapping[K, V]):
    """A dictionary of bounded size: when it is full, the entries that were written longest ago go.

    Writing a key again counts, and so does ``setdefault``; reading does not.
    """

    def __init__(self, most: int, *, weigh: Callable[[V], int] = lambda _: 1) -> None:
        """``most``: entries, or whatever ``weigh`` says that the values take together."""
        self._most, self._weigh = most, weigh
        self._items: OrderedDict[K, V] = OrderedDict()
        self.weight = 0
        """Of all values together: without ``weigh``, how many there are."""

    def __getitem__(self, key: K) -> V:
        return self._items[key]

    def __setitem__(self, key: K, value: V) -> None:
        self.pop(key, None)
        self._items[key] = value
        self.weight += self._weigh(value)
        while self.weight > self._most:
            del self[next(iter(self._items))]

    def __delitem__(self, key: K) -> None:
        self.weight -= self._weigh(self._items.pop(key))

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def setdefault(self, key: K, default: V) -> V:
        """Return the value of ``key``, after writing ``default`` if there is none. Either way it is the newest."""
        value = self.get(key, default)
        self[key] = value
        return value
