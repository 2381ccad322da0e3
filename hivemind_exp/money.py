"""Amounts of money as text, the same everywhere."""

import math


def dollars(usd: float) -> str:
    """Return an amount as ``2.50 USD``, ``0.012 USD`` or ``0.0000041 USD``: whole cents, or two significant digits."""
    return f"{digits(usd)} USD"


def digits(usd: float) -> str:
    """Return the number in ``dollars(usd)``."""
    if usd == 0:
        return "0"
    if abs(usd) < 1e-9:
        return "under 0.000000001"
    places = min(9, max(2, 1 - math.floor(math.log10(abs(usd)))))
    whole, _, decimals = f"{usd:,.{places}f}".partition(".")
    return f"{whole}.{decimals.rstrip('0'):0<2}"
