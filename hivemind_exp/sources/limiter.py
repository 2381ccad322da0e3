"""How many requests go out, and how fast: as many as the service bears, and never faster than it says.

Requests in flight: additive increase, multiplicative decrease (Chiu and Jain 1989). Rates that are stated beforehand
are paced evenly, so that no window of a minute holds more; what answers say of the remaining allowance counts too.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Mapping

from aiolimiter import AsyncLimiter

_DECREASE = 0.5
_BURST = 0.02
"""Part of a minute's allowance that may go out at once."""
_PACE = 0.975
"""Part of a stated rate that is used: with the burst, no window of a minute holds more than the rate."""
_LONGEST_HOLD_S = 120.0
"""What an answer says of its allowance holds for so long: some services tell a date, or the end of the day. If it is
still used up, the next answer says so."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Limiter:
    """The gate that every request to one service passes. For one event loop."""

    def __init__(self, concurrency: int, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        self._most = concurrency
        self._window = float(concurrency)
        self._flying = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._requests = _paced(requests_per_minute)
        self._tokens = _paced(tokens_per_minute)
        self._held_until = 0.0
        self._sent = 0
        self._decreased_at = 0

    @property
    def window(self) -> int:
        """Requests that may be in flight now."""
        return max(1, int(self._window))

    @property
    def held(self) -> bool:
        """Whether nothing goes out at present."""
        return asyncio.get_running_loop().time() < self._held_until

    async def enter(self, tokens: int) -> int:
        """Wait until a request of about so many tokens may go out; return its number, for ``leave``."""
        await self._take_place()
        try:
            if self._requests is not None:
                await self._requests.acquire()
            if self._tokens is not None:
                await _acquire(self._tokens, tokens)
            loop = asyncio.get_running_loop()
            while (wait := self._held_until - loop.time()) > 0:
                await asyncio.sleep(wait)
        except BaseException:
            self._give_place()
            raise
        self._sent += 1
        return self._sent

    def leave(self, number: int, headers: Mapping[str, str], *, slow_down: bool) -> None:
        """Take up what came of request ``number``."""
        self._flying -= 1
        if slow_down:
            # Answers to requests that went out before the last decrease tell of the same congestion.
            if number > self._decreased_at:
                self._window = max(1.0, self._window * _DECREASE)
                self._decreased_at = self._sent
        else:
            self._window = min(float(self._most), self._window + 1 / self._window)
        for what in ("requests", "tokens"):
            self._heed(number, headers, what)
        self._wake()

    def hold(self, seconds: float) -> None:
        """Let nothing out for a while, because the service said so."""
        self._held_until = max(self._held_until, asyncio.get_running_loop().time() + seconds)

    def _heed(self, number: int, headers: Mapping[str, str], what: str) -> None:
        """Hold when the allowance that an answer tells of is used up by what went out since."""
        remaining, reset = headers.get(f"x-ratelimit-remaining-{what}"), headers.get(f"x-ratelimit-reset-{what}")
        if remaining is None or reset is None:
            return
        seconds, left = duration(reset), _number(remaining)
        if seconds is None or left is None:
            return
        since = self._sent - number if what == "requests" else 0
        if left - since <= 0:
            self.hold(min(seconds, _LONGEST_HOLD_S))

    async def _take_place(self) -> None:
        while self._flying >= self.window:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except BaseException:
                if turn.done() and not turn.cancelled():
                    self._wake()
                raise
        self._flying += 1

    def _give_place(self) -> None:
        self._flying -= 1
        self._wake()

    def _wake(self) -> None:
        free = self.window - self._flying
        while self._waiting and free > 0:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1


def _paced(per_minute: int | None) -> AsyncLimiter | None:
    if per_minute is None:
        return None
    burst = max(1.0, _BURST * per_minute)
    return AsyncLimiter(burst, 60 * burst / (_PACE * per_minute))


async def _acquire(limiter: AsyncLimiter, amount: int) -> None:
    """Acquire more than a burst piece by piece."""
    while amount > 0:
        piece = min(float(amount), limiter.max_rate)
        await limiter.acquire(piece)
        amount -= int(piece) or 1


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def duration(text: str) -> float | None:
    """Return seconds of ``1.2s``, ``6m0s``, ``120ms`` or a plain number; None where it is none of these."""
    plain = _number(text)
    if plain is not None:
        return max(0.0, plain)
    parts = _DURATION.findall(text.replace(" ", ""))
    if not parts or "".join(number + unit for number, unit in parts) != text.replace(" ", ""):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)
