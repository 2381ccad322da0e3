"""Finding the answer in a completion, in time linear in its length whatever it holds.

Regular expressions with ``.*?`` between tags are quadratic on ``<answer><answer>…``; ``str.find`` is not.
"""

from collections.abc import Sequence

TAGS = ("<answer>", "</answer>", "<think>", "</think>")


def answer_in(completion: str) -> str | None:
    """Return what the last ``<answer>…</answer>`` pair holds, stripped; None when there is no pair."""
    return content(completion, "answer")


def content(completion: str, name: str) -> str | None:
    """Return what the last pair of the tag ``name`` holds, stripped; None when there is no pair."""
    opening, closing = f"<{name}>", f"</{name}>"
    last_close = completion.rfind(closing)
    start = completion.rfind(opening, 0, max(last_close, 0))
    if start < 0:
        return None
    start += len(opening)
    return completion[start : completion.index(closing, start)].strip()


def is_strict(completion: str) -> bool:
    """Tell whether the completion is an optional ``<think>…</think>``, one ``<answer>…</answer>`` and nothing else."""
    return is_exactly(completion, ["answer"], TAGS) or is_exactly(completion, ["think", "answer"])


def is_exactly(completion: str, names: Sequence[str], refused: Sequence[str] = ()) -> bool:
    """Tell whether the completion is one pair of each of these tags, in this order, and nothing else.

    Between them stands none of these tags, and nothing that is ``refused``.
    """
    tags = [*refused, *(tag for name in names for tag in (f"<{name}>", f"</{name}>"))]
    rest = completion.strip()
    for name in names:
        if not rest.startswith(f"<{name}>"):
            return False
        held, closed, rest = rest[len(name) + 2 :].partition(f"</{name}>")
        if not closed or any(tag in held for tag in tags):
            return False
        rest = rest.lstrip()
    return not rest


def in_order(completion: str, names: Sequence[str]) -> bool:
    """Tell whether there is a pair of each of these tags, one after the other, whatever stands around them."""
    place = 0
    for name in names:
        start = completion.find(f"<{name}>", place)
        end = completion.find(f"</{name}>", start)
        if start < 0 or end < 0:
            return False
        place = end + len(name) + 3
    return True
