"""Waiting in an event loop: for an event, for the first of several things, or for work that a process takes part in."""

import asyncio
import contextlib
from collections.abc import Awaitable, Collection, Coroutine
from typing import Any, TypeVar

_Result = TypeVar("_Result")
_AGAIN_S = 0.2
_REASON_S = 1.0
"""How long work may still take to fail by itself, with a better reason, after its process has ended."""


async def wait_set(event: asyncio.Event, seconds: float) -> None:
    """Return when ``event`` is set, or after ``seconds``."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


async def first_done(*things: Awaitable[object]) -> None:
    """Return when the first of ``things`` is done. Other tasks keep running, and other coroutines are cancelled."""
    tasks = {asyncio.ensure_future(thing) for thing in things}
    given = {thing for thing in things if isinstance(thing, asyncio.Future)}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel_all(tasks - given)


async def while_alive(work: Coroutine[Any, Any, _Result], died: Awaitable[object]) -> _Result:
    """Return the result of ``work``. Raises ChildProcessError, and cancels ``work``, if its process ends before.

    hivemind waits for ever for the answer of a daemon that was killed. ``died``: is done when the process has ended.
    """
    task = asyncio.create_task(work)
    try:
        await first_done(task, died)
        if not task.done():
            await first_done(task, asyncio.sleep(_REASON_S))
        if not task.done():
            raise ChildProcessError("its process has ended")
        return task.result()
    finally:
        await cancel_all([task])


async def cancel_all(tasks: Collection[asyncio.Future[Any]]) -> None:
    """Cancel tasks repeatedly until all are done.

    Once is not enough before Python 3.12: ``wait_for`` drops a cancellation that arrives just as its awaitable is done.
    This happens when a daemon dies, because all requests to it fail at that moment.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
