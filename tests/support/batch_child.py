"""An engine in a separate process that kills itself (SIGKILL) before or after a given step of a batch."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.journal.journal import Journal
from hivemind_exp.offload.api.batch import BatchClient
from hivemind_exp.offload.batch.job import BatchStore
from hivemind_exp.offload.ledger import Ledger
from tests.support.batching import hurry
from tests.support.engine_rig import endpoint, engine, order

ORDERS = 3
MOMENTS: dict[str, tuple[type, str, str, int]] = {
    "before the upload": (BatchClient, "upload", "before", 1),
    "after the upload": (BatchClient, "upload", "after", 1),
    "before the beginning": (BatchClient, "create", "before", 1),
    "after the beginning": (BatchClient, "create", "after", 1),
    "before the id is recorded": (BatchStore, "begun", "before", 1),
    "after the id is recorded": (BatchStore, "begun", "after", 1),
    "after the first look": (BatchClient, "look", "after", 1),
    "after the results came": (BatchClient, "fetch", "after", 1),
    "before the second completion": (Journal, "write_completions", "before", 2),
    "after the second completion": (Journal, "write_completions", "after", 2),
    "after the second payment": (Ledger, "settle", "after", 3),
    "before the end is recorded": (BatchStore, "over", "before", 1),
    "after the end is recorded": (BatchStore, "over", "after", 1),
}
"""Owner and name of the step; whether to die before or after it; at which call. (The probe is the first payment.)"""


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _dying(step: Callable[..., Any], when: str, times: int) -> Callable[..., Any]:
    """Wrap a step, synchronous or asynchronous, so that it kills the process."""
    left = times

    def before() -> None:
        nonlocal left
        left -= 1
        if left == 0 and when == "before":
            _die()

    def after() -> None:
        if left == 0 and when == "after":
            _die()

    def plain(*arguments: Any, **named: Any) -> Any:
        before()
        result = step(*arguments, **named)
        after()
        return result

    async def waiting(*arguments: Any, **named: Any) -> Any:
        before()
        result = await step(*arguments, **named)
        after()
        return result

    return waiting if step.__code__.co_flags & 0x80 else plain


def main(base_url: str, root: Path, moment: str | None = None) -> None:
    """Fill some orders in batches; die at one of the ``MOMENTS``."""
    if moment is not None:
        owner, name, when, times = MOMENTS[moment]
        setattr(owner, name, _dying(getattr(owner, name), when, times))
    hurry(pytest.MonkeyPatch())
    with engine(root, endpoint(base_url), batched=True) as rig:
        rig.offload.wait_for_probe()
        rig.run([order(number) for number in range(ORDERS)])
