"""Ending asyncio's tasks for certain."""

import asyncio
from collections.abc import Collection
from typing import Any

AGAIN_S = 0.2


async def cancel_all(tasks: Collection[asyncio.Future[Any]]) -> None:
    """Cancel tasks, and again, until all are done.

    Once is not enough before Python 3.12: ``wait_for`` drops a cancellation that comes just as what it waits for is
    done, as when a daemon dies and everything that asked it fails at that moment.
    """
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
