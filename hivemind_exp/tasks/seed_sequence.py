"""Which question stands where: everything that follows from (charter, split, round, index).

Hashes are over canonical bytes, every field behind its length, so that no two places share a seed because their
fields run together. No number generator of Python's is used: their sequences may change between versions.
"""

import functools
import hashlib
import hmac
from collections.abc import Sequence
from fractions import Fraction

from hivemind_exp.tasks.base import Split


def canonical(*fields: bytes | str | int) -> bytes:
    """Return the fields as bytes, each behind its kind and length."""
    parts = []
    for field in fields:
        kind = b"b" if isinstance(field, bytes) else b"s" if isinstance(field, str) else b"i"
        body = field if isinstance(field, bytes) else str(field).encode("utf-8", "surrogatepass")
        parts.append(kind + len(body).to_bytes(8, "big") + body)
    return b"".join(parts)


class Sequence64:
    """Numbers of 64 bits for the places of one split.

    Training follows from the charter alone, the same on every node; with a ``secret`` nobody else can know them.
    """

    def __init__(self, charter: bytes, split: Split, secret: bytes | None = None) -> None:
        self._charter = charter
        self._split = split
        self._secret = secret

    def at(self, purpose: str, *place: str | int) -> int:
        """Return the number of a place: the first 64 bits of its SHA-256, or HMAC-SHA-256 with the secret."""
        message = canonical(self._charter, self._split, purpose, *place)
        if self._secret is None:
            digest = hashlib.sha256(message).digest()
        else:
            digest = hmac.digest(self._secret, message, "sha256")
        return int.from_bytes(digest[:8], "big")

    @functools.lru_cache(maxsize=16)  # noqa: B019 - as many sequences live as a mixture has splits
    def permutation(self, label: str, epoch: int, size: int) -> tuple[int, ...]:
        """Return the numbers below ``size`` in the order of this epoch."""
        return tuple(sorted(range(size), key=lambda place: (self.at("order", label, epoch, place), place)))


def thresholds(weights: Sequence[float]) -> list[int]:
    """Return the bounds below which a 64-bit number chooses each task. Exact: no rounding differs between machines."""
    exact = [Fraction(weight) for weight in weights]
    total = sum(exact)
    bounds, below = [], Fraction(0)
    for weight in exact:
        below += weight
        bounds.append(int(below / total * 2**64))
    return bounds
