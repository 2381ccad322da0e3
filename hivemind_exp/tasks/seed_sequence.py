"""Derives the question at each position from (charter, split, round, index), and from a secret if it is held out.

Hashes are computed over canonical bytes. Every field is prefixed with its length, so that two positions never share a
seed because their fields run together. Python's random number generators are not used: their sequences may change
between versions.
"""

import functools
import hashlib
import hmac
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

from hivemind_exp.tasks.base import Split


def canonical(*fields: bytes | str | int) -> bytes:
    """Return the fields as bytes, each prefixed with its type and length."""
    parts = []
    for field in fields:
        kind = b"b" if isinstance(field, bytes) else b"s" if isinstance(field, str) else b"i"
        body = field if isinstance(field, bytes) else str(field).encode("utf-8", "surrogatepass")
        parts.append(kind + len(body).to_bytes(8, "big") + body)
    return b"".join(parts)


class Sequence64:
    """64-bit numbers for the positions of one split.

    Without a ``secret``, they depend only on the charter and are the same on every node. With a ``secret``, no one
    else can compute them.
    """

    def __init__(self, charter: bytes, split: Split | Literal["examples"], secret: bytes | None = None) -> None:
        self._charter = charter
        self._split = split
        self._secret = secret

    def at(self, purpose: str, *place: str | int) -> int:
        """Return a position's number: the first 64 bits of its SHA-256, or of its HMAC-SHA-256 with the secret."""
        message = canonical(self._charter, self._split, purpose, *place)
        if self._secret is None:
            digest = hashlib.sha256(message).digest()
        else:
            digest = hmac.digest(self._secret, message, "sha256")
        return int.from_bytes(digest[:8], "big")

    @functools.lru_cache(maxsize=16)  # noqa: B019 - there is only one sequence per split of a mixture
    def permutation(self, label: str, epoch: int, size: int) -> tuple[int, ...]:
        """Return the numbers below ``size`` in this epoch's order."""
        return tuple(sorted(range(size), key=lambda place: (self.at("order", label, epoch, place), place)))


def thresholds(weights: Sequence[float] | Sequence[Fraction]) -> list[int]:
    """Return each task's upper bound: a 64-bit number selects the first task whose bound is above it.

    The bounds are computed exactly, so rounding cannot differ between machines.
    """
    exact = [Fraction(weight) for weight in weights]
    total = sum(exact)
    bounds, below = [], Fraction(0)
    for weight in exact:
        below += weight
        bounds.append(int(below / total * 2**64))
    return bounds
