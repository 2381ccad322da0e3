"""Numbers in JSON that others may have written: Python reads NaN, infinities, and whole numbers of any length."""

import math


def is_finite(value: object) -> bool:
    """Whether a value from JSON is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False
