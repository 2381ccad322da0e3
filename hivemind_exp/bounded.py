"""A dictionary of bounded size, for data that peers could make grow without limit."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedDict(MutableMapping[K, V]):
    """A dictionary of bounded size: when it is full, the entries written longest ago are dropped.

    Writing a key again, also with ``setdefault``, makes its entry the newest. Reading does not.
    """

    def __init__(self, most: int, *, weigh: Callable[[V], int] = lambda _: 1) -> None:
        """``most``: the maximum number of entries, or with ``weigh`` the maximum total weight of the values."""
        self._most, self._weigh = most, weigh
        self._items: OrderedDict[K, V] = OrderedDict()
        self.weight = 0
        """Total weight of all values; without ``weigh``, their number."""

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
        """Return the value of ``key``, writing ``default`` if it is missing. The entry becomes the newest."""
        value = self.get(key, default)
        self[key] = value
        return value
