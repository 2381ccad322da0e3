"""The gate: as many requests as the service bears, never faster than it says."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hivemind_exp.sources.limiter import Limiter, duration
from hivemind_exp.sources.openai_chat import ChatClient
from hivemind_exp.sources.router import Router, Service
from hivemind_exp.sources.wire import Fault as WireFault
from hivemind_exp.sources.wire import Trouble
from tests.api.faults import Fault
from tests.api.server import api_server
from tests.hivemind_exp.nodes import Events
from tests.hivemind_exp.sources.offloading import PRICE, endpoint, engine, order


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1.2s", 1.2), ("6m0s", 360.0), ("120ms", 0.12), ("2", 2.0), ("1h2m3s", 3723.0), ("-5", 0.0), ("1d", 86400.0)],
)
def test_durations_as_services_write_them(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "5x", "s", "nan-s"])
def test_what_is_no_duration(text: str) -> None:
    assert duration(text) is None


def test_no_more_in_flight_than_allowed_and_half_after_a_complaint() -> None:
    async def play() -> tuple[int, list[int]]:
        limiter = Limiter(8, None, None)
        numbers = [await limiter.enter(1) for _ in range(8)]
        late = asyncio.ensure_future(limiter.enter(1))
        await asyncio.sleep(0)
        assert not late.done()
        limiter.leave(numbers[0], {}, slow_down=True)
        windows = [limiter.window]
        for number in numbers[1:]:  # they went out before the first complaint, and tell of the same congestion
            limiter.leave(number, {}, slow_down=True)
            windows.append(limiter.window)
        return await late, windows

    number, windows = asyncio.run(play())
    assert number == 9
    assert windows == [4] * 8


def test_the_window_grows_again_slowly() -> None:
    async def play() -> list[int]:
        limiter = Limiter(4, None, None)
        limiter.leave(await limiter.enter(1), {}, slow_down=True)
        windows = []
        for _ in range(30):
            windows.append(limiter.window)
            limiter.leave(await limiter.enter(1), {}, slow_down=False)
        return windows

    windows = asyncio.run(play())
    assert windows == sorted(windows)
    assert (windows[0], windows[-1]) == (2, 4)


def test_nothing_goes_out_while_the_allowance_is_used_up() -> None:
    async def play() -> float:
        limiter = Limiter(4, None, None)
        number = await limiter.enter(1)
        headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "200ms"}
        limiter.leave(number, headers, slow_down=False)
        begun = asyncio.get_running_loop().time()
        await limiter.enter(1)
        return asyncio.get_running_loop().time() - begun

    assert asyncio.run(play()) >= 0.2


def test_a_place_given_up_while_waiting_is_not_lost() -> None:
    async def play() -> None:
        limiter = Limiter(1, None, None)
        first = await limiter.enter(1)
        waiting = [asyncio.ensure_future(limiter.enter(1)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        limiter.leave(first, {}, slow_down=False)
        limiter.leave(await waiting[1], {}, slow_down=False)
        limiter.leave(await waiting[2], {}, slow_down=False)

    asyncio.run(asyncio.wait_for(play(), 5))


def test_stated_tokens_are_paced_even_beyond_a_burst() -> None:
    async def play() -> float:
        limiter = Limiter(64, None, 60_000)  # 1000 a second, bursts of 1200
        begun = asyncio.get_running_loop().time()
        for _ in range(3):
            limiter.leave(await limiter.enter(700), {}, slow_down=False)
        return asyncio.get_running_loop().time() - begun

    assert asyncio.run(play()) >= (3 * 700 - 1200) / 1000 * 0.9


def test_many_refusals_at_once_are_one_reason_to_wait() -> None:
    async def job() -> None:
        box = endpoint("http://127.0.0.1:9/v1")
        service = Service(box, ChatClient(box, None, seconds=1), Limiter(64, None, None), PRICE)
        router = Router([service], Events())
        for _ in range(64):
            router.failed(service, WireFault(Trouble.SLOW_DOWN, "HTTP 429"))
        assert service.slowed == 1
        assert service.limiter.held
        await asyncio.sleep(0.6)
        assert not service.limiter.held
        router.failed(service, WireFault(Trouble.SLOW_DOWN, "HTTP 429"))
        assert service.slowed == 2
        await service.client.close()

    asyncio.run(job())


def test_fewer_go_out_after_a_429_and_not_after_a_server_error(tmp_path: Path) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url)) as rig:
        rig.offload.probed()
        (service,) = rig.offload._chain
        assert service is not None
        server.next(Fault.SERVER_ERROR, times=5)
        rig.run([order(number) for number in range(10)])
        assert service.limiter.window == 64
        server.next(Fault.RATE_LIMIT)
        rig.run([order(10)])
        assert 32 <= service.limiter.window < 64


def test_a_date_in_the_place_of_a_duration_does_not_hold_for_decades() -> None:
    async def held() -> float:
        limiter = Limiter(4, None, None)
        number = await limiter.enter(1)
        told = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1764034371"}
        limiter.leave(number, told, slow_down=False)
        return limiter._held_until - asyncio.get_running_loop().time()

    assert 0 < asyncio.run(held()) <= 120
