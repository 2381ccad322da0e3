"""Time limits that a process doesn't use up while it is frozen (SIGSTOP, a sleeping laptop) or waits for a busy CPU.

A limit by the clock would end with it: on waking up, an answer that has arrived and is paid for would count as late.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

_T = TypeVar("_T")
_PARTS = 20
_LONGEST_PART_S = 0.5
"""A limit passes in parts. However long the event loop stands still, that counts as one part."""


@asynccontextmanager
async def patient(seconds: float) -> AsyncIterator[Callable[[], float]]:
    """Limit the block to ``seconds`` of a running event loop. Raises ``TimeoutError`` like ``asyncio.timeout``.

    Yields a function that returns the seconds that have passed, counted in this way.
    """
    loop, passed = asyncio.get_running_loop(), 0.0
    part = min(seconds / _PARTS, _LONGEST_PART_S)
    timer: asyncio.TimerHandle

    def tick() -> None:
        nonlocal passed, timer
        passed += part
        if passed < seconds - part / 2:
            timer = loop.call_later(part, tick)
        else:
            limit.reschedule(loop.time())

    async with asyncio.timeout(None) as limit:
        timer = loop.call_later(part, tick)
        try:
            yield lambda: passed
        finally:
            timer.cancel()


async def within(seconds: float, work: Awaitable[_T]) -> _T:
    """Return the result of ``work``. Raises ``TimeoutError``, and cancels ``work``, as ``patient`` does."""
    async with patient(seconds):
        return await work
