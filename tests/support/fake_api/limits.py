"""Limits of requests and tokens per minute in a sliding window, and the headers that report them."""

from __future__ import annotations

import math
from collections import deque


class SlidingWindow:
    """Admits an amount per minute, counted over the last ``window`` seconds."""

    def __init__(self, per_minute: float, window: float) -> None:
        self.per_minute = per_minute
        self.window = window
        self.allowed = per_minute * window / 60
        self._taken: deque[tuple[float, float]] = deque()
        self._sum = 0.0

    def remaining(self, now: float) -> float:
        """Return the amount that is still available now."""
        while self._taken and self._taken[0][0] <= now - self.window:
            self._sum -= self._taken.popleft()[1]
        return self.allowed - self._sum

    def wait(self, now: float, amount: float) -> float:
        """Return the seconds until ``amount`` is available; infinite if it never is."""
        missing = amount - self.remaining(now)
        if missing <= 0:
            return 0.0
        for when, taken in self._taken:
            missing -= taken
            if missing <= 0:
                return when + self.window - now
        return math.inf

    def take(self, now: float, amount: float) -> None:
        """Count an admitted amount."""
        self._taken.append((now, amount))
        self._sum += amount

    def reset(self, now: float) -> float:
        """Return the seconds until the window is empty."""
        return max(0.0, self._taken[-1][0] + self.window - now) if self._taken else 0.0


def format_duration(seconds: float) -> str:
    """Return a duration as OpenAI writes it: ``17ms``, ``1.2s``, ``6m0s``."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    minutes, rest = divmod(math.ceil(seconds * 1000) / 1000, 60)
    hours, minutes = divmod(int(minutes), 60)
    text = f"{rest:.3f}".rstrip("0").rstrip(".") + "s"
    return (f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else "") + text


class Limiter:
    """A service's two windows. None means no limit."""

    def __init__(self, rpm: float | None, tpm: float | None, window: float) -> None:
        self._windows = {
            name: SlidingWindow(limit, window)
            for name, limit in (("requests", rpm), ("tokens", tpm))
            if limit is not None
        }

    def admit(self, now: float, tokens: int) -> tuple[str, float] | None:
        """Count a request, or return the window that refuses it, with the seconds to wait."""
        amounts = {"requests": 1, "tokens": tokens}
        waits = {name: window.wait(now, amounts[name]) for name, window in self._windows.items()}
        name = max(waits, key=lambda name: waits[name], default=None)
        if name and waits[name] > 0:
            return name, waits[name]
        for name, window in self._windows.items():
            window.take(now, amounts[name])
        return None

    def settle(self, now: float, tokens: int) -> None:
        """Count the tokens of a completion whose length was unknown before."""
        if "tokens" in self._windows:
            self._windows["tokens"].take(now, tokens)

    def headers(self, now: float) -> dict[str, str]:
        """Return OpenAI's headers: the limit per minute, the remaining amount, and when the window is reset."""
        headers = {}
        for name, window in self._windows.items():
            headers[f"x-ratelimit-limit-{name}"] = f"{window.per_minute:.0f}"
            headers[f"x-ratelimit-remaining-{name}"] = f"{max(0, math.floor(window.remaining(now)))}"
            headers[f"x-ratelimit-reset-{name}"] = format_duration(window.reset(now))
        return headers
