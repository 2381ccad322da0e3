"""Dollars for people."""

from __future__ import annotations

_LEAST = 1e-9


def dollars(usd: float) -> str:
    """Return an amount as ``2.50 USD``, ``0.012 USD`` or ``0.0000041 USD``: two digits that count, at least cents."""
    if usd == 0:
        return "0 USD"
    if abs(usd) < _LEAST:
        return f"under {_LEAST:.9f} USD"
    places = 2
    while places < 9 and abs(usd) < 10 ** (1 - places):
        places += 1
    return f"{usd:,.{places}f} USD"
