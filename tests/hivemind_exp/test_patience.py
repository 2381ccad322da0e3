"""Time limits: they end, and a process that was frozen does not miss what has arrived meanwhile."""

from __future__ import annotations

import asyncio
import time

import pytest

from hivemind_exp.patience import patient, within


def test_a_limit_ends_and_counts_what_has_passed() -> None:
    async def wait() -> None:
        async with patient(0.2) as passed:
            try:
                await asyncio.sleep(60)
            finally:
                assert passed() == pytest.approx(0.2)

    with pytest.raises(TimeoutError):
        asyncio.run(wait())


def test_what_ends_in_time_is_not_disturbed() -> None:
    async def wait() -> str:
        found = await within(0.05, asyncio.sleep(0, "done"))
        await asyncio.sleep(0.2)
        return found

    assert asyncio.run(wait()) == "done"


@pytest.mark.slow
def test_standing_still_counts_as_one_part_only() -> None:
    async def wait() -> float:
        reader, begun = asyncio.StreamReader(), time.monotonic()
        async with patient(1.0) as passed:
            asyncio.get_running_loop().call_later(0.02, time.sleep, 1.2)  # as if the process was stopped
            asyncio.get_running_loop().call_later(0.06, reader.feed_data, b"late")
            assert await reader.readexactly(4) == b"late"
            assert time.monotonic() - begun > 1.0
            return passed()

    assert asyncio.run(wait()) < 0.5
