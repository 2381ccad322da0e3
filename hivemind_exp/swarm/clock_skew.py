"""The difference between this machine's clock and its peers' clocks."""

from collections.abc import Collection

MOST_SKEW_S = 3.0


def median_skew(skews: Collection[float]) -> float:
    """Return how many seconds the peers' clocks are ahead of this machine's: the median, or 0 from fewer than two."""
    return sorted(skews)[len(skews) // 2] if len(skews) >= 2 else 0.0


def is_news(ahead: float, told: float) -> bool:
    """Whether to report a difference, after another one was reported (0: none)."""
    ended = abs(told) > MOST_SKEW_S and abs(ahead) < MOST_SKEW_S / 2  # less than the limit, so that it doesn't flicker
    return abs(ahead - told) > MOST_SKEW_S or ended


def describe_skew(ahead: float) -> str:
    """Return a sentence on the difference between this machine's clock and its peers' clocks."""
    if abs(ahead) <= MOST_SKEW_S:
        return "this machine's clock agrees with its peers' clocks again"
    direction = "behind" if ahead > 0 else "ahead of"
    return f"this machine's clock is {abs(ahead):.0f} s {direction} its peers' clocks; synchronize it"
