"""How long to wait before trying again."""

import random

_MOST_STEPS = 64
"""Further growth is beyond any limit, and would overflow in the end."""


def growing(step: int, *, first: float, longest: float, factor: float = 2.0) -> float:
    """Return a pause in seconds: ``first`` at step 0, ``factor`` times as long with each step, ``longest`` at most."""
    return min(longest, first * factor ** min(step, _MOST_STEPS))


def jittered(seconds: float, part: float) -> float:
    """Return ``seconds``, longer or shorter by up to ``part`` of it, so that the many do not come back at once."""
    return seconds * random.uniform(1.0 - part, 1.0 + part)
