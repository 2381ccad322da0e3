"""How much of a measured share or of its change may be chance: 95 % intervals, and a sign test."""

import math


def wilson(share: float, number: int, z: float = 1.96) -> tuple[float, float]:
    """Return the score interval of a share measured on ``number`` samples (Wilson 1927; z = 1.96 for 95 %)."""
    scale = 1 + z**2 / number
    middle = (share + z**2 / (2 * number)) / scale
    half = z * math.sqrt(share * (1 - share) / number + z**2 / (4 * number**2)) / scale
    return max(0.0, middle - half), min(1.0, middle + half)


def in_percent(share: float, number: int) -> str:
    """Return the 95 % interval of a share measured on ``number`` samples, in percent: ``31–45``."""
    low, high = wilson(share, number)
    return f"{100 * low:.0f}–{100 * high:.0f}"


def paired(lost: int, won: int, number: int, z: float = 1.96) -> tuple[float, float]:
    """Return the interval of the difference of two shares measured on the same ``number`` samples.

    ``lost`` samples count only for the first share, ``won`` only for the second (Wald interval for paired shares).
    """
    middle = (won - lost) / number
    half = z * math.sqrt(max(0.0, (lost + won) / number - middle**2) / number)
    return max(-1.0, middle - half), min(1.0, middle + half)


def sign_test(lost: int, won: int) -> float:
    """Return how likely at least ``lost`` of ``lost + won`` differences are by chance (McNemar's exact test)."""
    number = lost + won
    return float(sum(math.comb(number, k) for k in range(lost, number + 1)) / 2**number)
