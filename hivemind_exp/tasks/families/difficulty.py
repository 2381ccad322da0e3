"""Levels of difficulty of a reasoning-gym generator, from its own curriculum.

The curriculum lists values for some parameters, such as the number of terms. Its easiest level is often harder than the
generator's defaults, so the levels here lead up to the task's own parameters: each parameter goes through the
curriculum's values below its own, or through four even steps if there are none.
"""

from collections.abc import Iterator
from typing import Any

MOST_STEPS = 8
_EVEN = 4


def levels(curriculum: Any, own: Any) -> list[dict[str, Any]]:
    """Return the parameters of each level, easiest first; the last ones are the task's own.

    ``curriculum``: the library's ``BaseCurriculum`` of the generator. ``own``: the generator's configuration.
    """
    tracks = dict(_tracks(curriculum, own))
    steps = min(MOST_STEPS, sum(len(track) - 1 for track in tracks.values()))
    found: list[dict[str, Any]] = []
    for step in range(steps + 1):
        level = {name: track[(len(track) - 1) * step // max(1, steps)] for name, track in tracks.items()}
        if not found or level != found[-1]:
            found.append(level)
    return found


def _tracks(curriculum: Any, own: Any) -> Iterator[tuple[str, list[Any]]]:
    """Yield each parameter with its values, from the easiest to the task's own."""
    for attribute in curriculum.attributes.values():
        values = list(attribute.levels)
        if hasattr(attribute, "upper_field_name"):
            name, floor = attribute.upper_field_name, getattr(own, attribute.lower_field_name)
            easier = _below(getattr(own, name), values, floor)
            # Some generators never end if such a range has only one value.
            yield (
                name,
                [*(value for value in easier if value > floor or not attribute.ensure_interval), getattr(own, name)],
            )
        else:
            name, mine = attribute.field_name, getattr(own, attribute.field_name)
            numbers = all(_is_number(value) for value in (mine, *values))
            # Values that are not numbers have no order beyond their own list, whose first one is the easiest.
            easier = _before(mine, values) if numbers else [value for value in values[:1] if value != mine]
            yield name, [*easier, mine]


def _below(most: float, values: list[Any], floor: float) -> list[Any]:
    """Return the easier values of a range's upper end."""
    if not all(_is_number(value) for value in (most, floor, *values)):
        return []
    listed = [value for value in values if floor <= value < most]
    if listed or most <= floor:
        return listed
    even = [floor + (most - floor) * part / _EVEN for part in range(_EVEN)]
    return even if isinstance(most, float) else sorted({int(value) for value in even})


def _before(mine: float, values: list[Any]) -> list[Any]:
    """Return the values that come before the task's own in the list's direction."""
    upward = values[-1] >= values[0]
    return [value for value in values if (value < mine if upward else value > mine)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
