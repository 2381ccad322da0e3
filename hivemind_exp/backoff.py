"""Pauses between retries."""

import random

_MOST_STEPS = 64
"""The pause stops growing after this many steps: it is past any limit by then, and would eventually overflow."""


def growing(step: int, *, first: float, longest: float, factor: float = 2.0) -> float:
    """Return a pause in seconds: ``first`` at step 0, multiplied by ``factor`` at each step, at most ``longest``."""
    return min(longest, first * factor ** min(step, _MOST_STEPS))


def jittered(seconds: float, part: float) -> float:
    """Return ``seconds`` changed randomly by up to ``part`` of it, so that many clients do not retry all at once."""
    return seconds * random.uniform(1.0 - part, 1.0 + part)
