"""Waiting in an event loop: for an event, or for the first of several things."""

import asyncio
import contextlib
from collections.abc import Awaitable

from hivemind_exp.swarm.transfer.peer_transfers import cancel_all


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
