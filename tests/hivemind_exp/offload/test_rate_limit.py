"""The rate limiter: as many requests as the service can take, never faster than its limits."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from hivemind_exp.offload.api.chat import ChatClient
from hivemind_exp.offload.api.chat import RequestFailed as WireFault
from hivemind_exp.offload.api.faults import FaultKind
from hivemind_exp.offload.rate_limit import CATCH_UP_S, USED, Pace, Permit, RateLimiter, duration
from hivemind_exp.offload.router import ProviderService, Router
from tests.support.engine_rig import PRICE, endpoint, engine, order
from tests.support.fake_api.faults import Fault
from tests.support.fake_api.server import api_server
from tests.support.nodes import Events


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1.2s", 1.2), ("6m0s", 360.0), ("120ms", 0.12), ("2", 2.0), ("1h2m3s", 3723.0), ("-5", 0.0), ("1d", 86400.0)],
)
def test_durations_in_headers_are_parsed(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "5x", "s", "nan-s"])
def test_invalid_durations_are_none(text: str) -> None:
    assert duration(text) is None


async def _enter(limiter: RateLimiter, tokens: float = 1.0) -> Permit:
    return await limiter.acquire(lambda: tokens)


def _leave(
    limiter: RateLimiter, passed: Permit, headers: Mapping[str, str] | None = None, *, slow_down: bool = False
) -> None:
    limiter.release(passed, headers or {}, slow_down=slow_down, used=None)


async def _opened(concurrency: int) -> RateLimiter:
    """Return a limiter whose first request has been answered."""
    limiter = RateLimiter(concurrency, None, None)
    _leave(limiter, await _enter(limiter))
    return limiter


def test_requests_in_flight_are_limited_and_halved_once_after_429s() -> None:
    async def play() -> tuple[int, list[int]]:
        limiter = await _opened(8)
        passed = [await _enter(limiter) for _ in range(8)]
        late = asyncio.ensure_future(_enter(limiter))
        await asyncio.sleep(0)
        assert not late.done()
        windows = []
        for each in passed:  # sent before the first 429, so they report the same congestion
            _leave(limiter, each, slow_down=True)
            windows.append(limiter.window)
        return (await late).number, windows

    number, windows = asyncio.run(play())
    assert number == 10
    assert windows == [4] * 8


def test_the_window_grows_again_slowly() -> None:
    async def play() -> list[int]:
        limiter = RateLimiter(4, None, None)
        _leave(limiter, await _enter(limiter), slow_down=True)
        windows = []
        for _ in range(30):
            windows.append(limiter.window)
            _leave(limiter, await _enter(limiter))
        return windows

    windows = asyncio.run(play())
    assert windows == sorted(windows)
    assert (windows[0], windows[-1]) == (2, 4)


def test_nothing_is_sent_while_the_allowance_is_used_up() -> None:
    async def play() -> float:
        limiter = RateLimiter(4, None, None)
        _leave(limiter, await _enter(limiter), _headers("", "0", "200ms"))
        begun = asyncio.get_running_loop().time()
        await _enter(limiter)
        return asyncio.get_running_loop().time() - begun

    assert asyncio.run(play()) >= 0.2


def test_cancelled_waiter_does_not_lose_its_turn() -> None:
    async def play() -> None:
        limiter = RateLimiter(1, None, None)
        first = await _enter(limiter)
        waiting = [asyncio.ensure_future(_enter(limiter)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        _leave(limiter, first)
        _leave(limiter, await waiting[1])
        _leave(limiter, await waiting[2])

    asyncio.run(asyncio.wait_for(play(), 5))


@pytest.mark.slow
def test_token_rate_is_paced_even_for_large_requests() -> None:
    async def play() -> float:
        limiter = RateLimiter(64, None, 60_000)
        begun = asyncio.get_running_loop().time()
        for _ in range(3):
            _leave(limiter, await _enter(limiter, 500))
        return asyncio.get_running_loop().time() - begun

    assert asyncio.run(play()) >= 2 * 500 / 1000 - CATCH_UP_S


@pytest.mark.slow
def test_many_simultaneous_429s_count_as_one() -> None:
    async def job() -> None:
        box = endpoint("http://127.0.0.1:9/v1")
        service = ProviderService(box, ChatClient(box, None, seconds=1), RateLimiter(64, None, None), PRICE)
        router = Router([service], Events())
        for _ in range(64):
            router.record_failure(service, WireFault(FaultKind.SLOW_DOWN, "HTTP 429"))
        assert service.slowed == 1
        assert service.limiter.held
        await asyncio.sleep(0.6)
        assert not service.limiter.held
        router.record_failure(service, WireFault(FaultKind.SLOW_DOWN, "HTTP 429"))
        assert service.slowed == 2
        await service.client.close()

    asyncio.run(job())


def test_429_reduces_requests_in_flight_and_a_server_error_does_not(tmp_path: Path) -> None:
    with api_server() as server, engine(tmp_path, endpoint(server.base_url)) as rig:
        rig.offload.wait_for_probe()
        (service,) = rig.services
        assert service is not None
        server.next(Fault.SERVER_ERROR, times=5)
        rig.run([order(number) for number in range(10)])
        assert service.limiter.window == 64
        server.next(Fault.RATE_LIMIT)
        rig.run([order(10)])
        assert 32 <= service.limiter.window < 64


@pytest.mark.slow
@pytest.mark.parametrize("window", [10.0, 60.0])
@pytest.mark.parametrize("amounts", [(1, 1), (40, 200)])
def test_every_window_stays_within_the_limit_and_uses_most_of_it(window: float, amounts: tuple[int, int]) -> None:
    limit, chance, now = 60_000.0 if amounts[1] > 1 else 1200.0, random.Random(0), 0.0
    pace = Pace(limit)
    went: list[tuple[float, int]] = []
    while now < 3 * window:
        now += pace.wait(now) + chance.expovariate(1 / 0.002)  # an event loop is always slightly late
        amount = chance.randint(*amounts)
        pace.take(now, amount)
        went.append((now, amount))
    allowed = limit * window / 60
    for start, _ in went:
        assert sum(amount for when, amount in went if start <= when < start + window) <= allowed
    assert sum(amount for _, amount in went) > 0.95 * 3 * allowed


def test_the_lower_of_the_users_and_the_services_limit_applies() -> None:
    for stated, told, gap in ((None, 60.0, 1.0), (60.0, 600.0, 1.0), (600.0, 60.0, 1.0)):
        pace = Pace(stated)
        pace.heed(told)
        pace.take(100.0, 1)
        assert pace.wait(100.0) == pytest.approx(gap / USED - CATCH_UP_S)


def _headers(limit: str, remaining: str, reset: str) -> dict[str, str]:
    names = ("limit", "remaining", "reset")
    return {f"x-ratelimit-{name}-requests": value for name, value in zip(names, (limit, remaining, reset), strict=True)}


@pytest.mark.parametrize(
    ("headers", "held"),
    [
        (_headers("", "0", "30s"), True),
        (_headers("", "5", "30s"), False),
        (_headers("", "0", "23h"), False),  # ask another service instead of waiting a day
        (_headers("nan", "nan", "nan"), False),
        (_headers("inf", "-inf", "1e999"), False),
        (_headers("-1", "many", "soon"), False),
        ({}, False),
    ],
)
def test_an_exhausted_allowance_in_headers_holds_requests(headers: Mapping[str, str], held: bool) -> None:
    async def job() -> None:
        limiter = RateLimiter(8, None, None)
        _leave(limiter, await _enter(limiter), headers)
        assert limiter.held is held

    asyncio.run(job())
