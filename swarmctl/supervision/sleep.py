"""Notice that the machine slept or that its clock was set, and keep a Mac awake."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

LEAST_S = 60.0
"""Shorter sleeps and jumps are not worth a line."""


def awake_clock() -> float:
    """Return the seconds in which this machine did not sleep, from some start on."""
    return time.monotonic()


def elapsed_clock() -> float:
    """Return the seconds from some start on, including those in which this machine slept."""
    clock = time.CLOCK_MONOTONIC if sys.platform == "darwin" else getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)


class SleepWatch:
    """Compares three clocks: one that stops while the machine sleeps, one that does not, and the time of day."""

    def __init__(
        self,
        *,
        awake: Callable[[], float] = awake_clock,
        elapsed: Callable[[], float] = elapsed_clock,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._clocks = awake, elapsed, wall
        self._before = self._read()

    def look(self) -> tuple[float, float]:
        """Return the seconds that the machine slept since the last look, and those by which its clock was set.

        Both are 0 if they are short. A clock that was set back gives a negative number.
        """
        before, self._before = self._before, self._read()
        awake, elapsed, wall = (now - then for now, then in zip(self._before, before, strict=True))
        slept, jumped = elapsed - awake, wall - elapsed
        return (slept if slept >= LEAST_S else 0.0), (jumped if abs(jumped) >= LEAST_S else 0.0)

    def _read(self) -> tuple[float, float, float]:
        awake, elapsed, wall = self._clocks
        return awake(), elapsed(), wall()


@contextmanager
def kept_awake(pid: int, *, wanted: bool) -> Iterator[bool]:
    """Keep a Mac on mains power awake until the process ``pid`` or the block ends. Yields whether it is.

    Other systems are left alone.
    """
    program = shutil.which("caffeinate") if wanted and sys.platform == "darwin" else None
    if program is None:
        yield False
        return
    process = subprocess.Popen(
        [program, "-s", "-w", str(pid)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield True
    finally:
        with suppress(OSError):
            process.kill()
        process.wait()
