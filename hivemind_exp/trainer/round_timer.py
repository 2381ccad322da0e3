"""Where the time of a round goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Part = Literal["generate", "verify", "train", "share"]
PARTS: tuple[Part, ...] = ("generate", "verify", "train", "share")


class RoundTimer:
    """Seconds of wall time by part; what no part claims is "other"."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)

    @contextmanager
    def __call__(self, part: Part) -> Iterator[None]:
        """Count the time inside the block as ``part``."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part] += time.perf_counter() - begun

    def seconds(self) -> dict[str, float]:
        """Return the seconds so far of every part and of "other"."""
        other = time.perf_counter() - self._start - sum(self._seconds.values())
        return {name: round(value, 4) for name, value in {**self._seconds, "other": other}.items()}
