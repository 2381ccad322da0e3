"""Limits how many requests to a service are in flight (as many as it can take), and how fast they are sent.

The number in flight follows additive increase, multiplicative decrease (Chiu and Jain 1989). Requests are spaced evenly
at the rates given in the profile or in answers. The first request is sent alone, so that its answer can say how many
may follow. No library does this: they keep to rates that are known beforehand, and learn neither from headers nor from
rejections.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

_DECREASE = 0.5
LONGEST_HOLD_S = 120.0
"""Longest pause that the limiter waits for. A longer one counts as an outage, and another service is asked."""
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class Permit:
    """Permission to send one request."""

    number: int
    tokens: float
    """Tokens that the request was expected to count as."""


class RateLimiter:
    """Limits the requests to one service. Use it from one event loop."""

    def __init__(self, concurrency: int, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        self._most = concurrency
        self._window = float(concurrency)
        self._flying = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._arrivals = count()
        self._paces = {"requests": Pace(requests_per_minute), "tokens": Pace(tokens_per_minute)}
        self._turn = asyncio.Lock()
        self._held_until = 0.0
        self._sent = 0
        self._answered = False
        self._decreased_at = 0

    @property
    def window(self) -> int:
        """Requests that may be in flight now."""
        return max(1, int(self._window)) if self._answered else 1

    @property
    def held(self) -> bool:
        return asyncio.get_running_loop().time() < self._held_until

    async def acquire(self, expected: Callable[[], float], round_: int = 0) -> Permit:
        """Wait until a request may be sent. Earlier rounds go first, since the trainer waits for them.

        ``expected`` is called when the wait is over, and returns how many tokens the request will count as.
        """
        await self._take_place(round_)
        try:
            async with self._turn:
                tokens = await self._pass(expected)
        except BaseException:
            self._flying -= 1
            self._wake()
            raise
        self._sent += 1
        return Permit(self._sent, tokens)

    def release(self, passed: Permit, headers: Mapping[str, str], *, slow_down: bool, used: float | None) -> None:
        """Learn from a finished request. ``used``: the tokens that it counted as, or None if unknown."""
        self._flying -= 1
        self._answered = True
        if slow_down:
            # Answers to requests sent before the last decrease report the same congestion.
            if passed.number > self._decreased_at:
                self._window = max(1.0, self._window * _DECREASE)
                self._decreased_at = self._sent
        else:
            self._window = min(float(self._most), self._window + 1 / self._window)
        if used is not None:
            self._paces["tokens"].correct(used - passed.tokens)
        for what, pace in self._paces.items():
            self._heed(passed.number, headers, what, pace)
        self._wake()

    def hold(self, seconds: float) -> None:
        """Send nothing for ``seconds``, because the service asked for a pause."""
        self._held_until = max(self._held_until, asyncio.get_running_loop().time() + seconds)

    async def _pass(self, expected: Callable[[], float]) -> float:
        """Wait for the end of a pause and for the pace; return the expected tokens.

        Only one request waits here at a time; otherwise all would be sent at once when a pause ends.
        """
        loop = asyncio.get_running_loop()
        while True:
            now = loop.time()
            wait = max(self._held_until - now, *(pace.wait(now) for pace in self._paces.values()))
            if wait <= 0:
                break
            await asyncio.sleep(wait)
        tokens = expected()
        self._paces["requests"].take(now, 1)
        self._paces["tokens"].take(now, tokens)
        return tokens

    def _heed(self, number: int, headers: Mapping[str, str], what: str, pace: Pace) -> None:
        """Adopt the limit given in an answer. Without one, pause if the allowance it reports is used up by now."""
        limit = _number(headers.get(f"x-ratelimit-limit-{what}", ""))
        if limit is not None and limit > 0:
            pace.heed(limit)
        if pace.known:
            return
        left = _number(headers.get(f"x-ratelimit-remaining-{what}", ""))
        seconds = duration(headers.get(f"x-ratelimit-reset-{what}", ""))
        since = self._sent - number if what == "requests" else 0
        if left is not None and seconds is not None and left - since <= 0 and seconds <= LONGEST_HOLD_S:
            self.hold(seconds)

    async def _take_place(self, round_: int) -> None:
        while self._flying >= self.window:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (round_, next(self._arrivals), turn))
            try:
                await turn
            except BaseException:
                if turn.done() and not turn.cancelled():
                    self._wake()
                raise
        self._flying += 1

    def _wake(self) -> None:
        free = self.window - self._flying
        while self._waiting and free > 0:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                free -= 1


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def duration(text: str) -> float | None:
    """Parse ``1.2s``, ``6m0s``, ``120ms`` or a plain number (including inf) to seconds; None for any other text."""
    with suppress(ValueError):
        plain = float(text)
        return None if math.isnan(plain) else max(0.0, plain)
    parts = _DURATION.findall(text.replace(" ", ""))
    if not parts or "".join(number + unit for number, unit in parts) != text.replace(" ", ""):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


USED = 0.975
"""Fraction of a limit to use; the rest allows for requests that the service counts differently or receives late."""
CATCH_UP_S = 0.05
"""Longest delay, in seconds, that is made up for by sending more at once. Short, as some services count per second."""


class Pace:
    """Paces one service's requests or tokens. Times are the event loop's, in seconds."""

    def __init__(self, per_minute: float | None) -> None:
        """Keep to the operator's ``per_minute`` and to limits learned by ``heed``; None: only to the latter."""
        self._stated = per_minute
        self._per_second: float | None = None
        if per_minute is not None:
            self.heed(per_minute)
        self._due = 0.0

    @property
    def known(self) -> bool:
        return self._per_second is not None

    def heed(self, per_minute: float) -> None:
        """Adopt a limit given in an answer. The lower of this and the operator's applies."""
        self._per_second = USED * min(per_minute, self._stated or per_minute) / 60

    def wait(self, now: float) -> float:
        return max(0.0, self._due - now) if self.known else 0.0

    def take(self, now: float, amount: float) -> None:
        if self._per_second is not None:
            self._due = max(self._due, now - CATCH_UP_S) + amount / self._per_second

    def correct(self, amount: float) -> None:
        """Correct the pace by ``amount``, the difference between actual and expected use."""
        if self._per_second is not None:
            self._due += amount / self._per_second
