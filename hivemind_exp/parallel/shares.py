"""Which process takes which part of the work."""

from collections.abc import Callable, Sequence
from typing import TypeVar

_Item = TypeVar("_Item")


def even_range(count: int, place: int, processes: int) -> range:
    """Return the numbers below ``count`` of process ``place``: a contiguous range; the ranges differ by at most one."""
    return range(place * count // processes, (place + 1) * count // processes)


def deal(items: Sequence[_Item], size: Callable[[_Item], int], place: int, processes: int) -> list[_Item]:
    """Return the items of process ``place``, dealt by size in turns that change direction.

    So all get about as much work, and items of about the same sizes. Every process computes the same deal.
    """
    largest_first = sorted(items, key=size, reverse=True)
    turns = [largest_first[start : start + processes] for start in range(0, len(items), processes)]
    return [
        turn[each]
        for number, turn in enumerate(turns)
        if (each := place if number % 2 == 0 else processes - 1 - place) < len(turn)
    ]
