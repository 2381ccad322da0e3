"""Find the answer in a completion, in time linear in its length whatever it contains.

Regular expressions with ``.*?`` between tags take quadratic time on ``<answer><answer>…``; ``str.find`` does not.
"""

from collections.abc import Sequence

TAGS = ("<answer>", "</answer>", "<think>", "</think>")
INSTRUCTION = (
    "Think about the question first, between <think> and </think>. "
    "Then give the final answer, and nothing else, between <answer> and </answer>."
)
"""Asks for a completion in exactly this format."""


def answer_in(completion: str) -> str | None:
    """Return the stripped content of the last ``<answer>…</answer>`` pair, or None if there is no pair."""
    return content(completion, "answer")


def content(completion: str, name: str) -> str | None:
    """Return the stripped content of the last pair of ``name`` tags, or None if there is no pair."""
    opening, closing = f"<{name}>", f"</{name}>"
    last_close = completion.rfind(closing)
    start = completion.rfind(opening, 0, max(last_close, 0))
    if start < 0:
        return None
    start += len(opening)
    return completion[start : completion.index(closing, start)].strip()


def is_strict(completion: str) -> bool:
    """Return whether the completion is only an optional ``<think>…</think>`` and one ``<answer>…</answer>``."""
    return is_exactly(completion, ["answer"], TAGS) or is_exactly(completion, ["think", "answer"])


def is_exactly(completion: str, names: Sequence[str], refused: Sequence[str] = ()) -> bool:
    """Return whether the completion is one pair of each of these tags, in this order, and nothing else.

    No pair may contain any of these tags or anything in ``refused``.
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


def strict_part(completion: str, names: Sequence[str]) -> str | None:
    """Return the last pair of each of these tags with its contents, in this order, without other text around them.

    ``<think>`` may be missing: a chat template may have put it at the end of the prompt. None if there is no such part.
    """
    parts: list[str] = []
    end = len(completion)
    for name in reversed(names):
        opening, closing = f"<{name}>", f"</{name}>"
        last_close = completion.rfind(closing, 0, end)
        start = completion.rfind(opening, 0, max(last_close, 0))
        if last_close < 0 or (start < 0 and name != "think"):
            return None
        begin = 0 if start < 0 else start + len(opening)
        parts.append(f"{opening}{completion[begin : completion.index(closing, begin)]}{closing}")
        end = max(start, 0)
    text = "\n".join(reversed(parts))
    return text if is_exactly(text, names, TAGS if len(names) == 1 else ()) else None


def in_order(completion: str, names: Sequence[str]) -> bool:
    """Return whether the completion contains a pair of each of these tags in this order, with any text around."""
    place = 0
    for name in names:
        start = completion.find(f"<{name}>", place)
        end = completion.find(f"</{name}>", start)
        if start < 0 or end < 0:
            return False
        place = end + len(name) + 3
    return True
