"""Rows of a journal that cannot be decoded, because they are damaged or a newer version wrote them."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from hivemind_exp.foreign_text import foreign


@contextmanager
def decoding(round_: int) -> Iterator[None]:
    """Decode rows of a round (from 0). Raises ``sqlite3.DataError`` if one cannot be decoded."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise sqlite3.DataError(f"a row of round {round_ + 1} cannot be decoded: {foreign(error, 80)}") from error
