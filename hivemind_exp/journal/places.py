"""Places of a group in the journal: those of peers' groups follow those of the node's own."""

from __future__ import annotations

FOREIGN = 1_000_000
"""Places from one peer's group to the next in one round; the node's own group has those below the first."""


def foreign_place(number: int) -> int:
    """Return the first place of the peers' group of this number in a round, counted from 0."""
    return FOREIGN * (number + 1)


def within_group(place: int) -> int:
    """Return the place of a completion within its own group, whoever's group that is."""
    return place % FOREIGN
