"""Finding the answer in a completion, in time linear in its length whatever it holds.

Regular expressions with ``.*?`` between tags are quadratic on ``<answer><answer>…``; ``str.find`` is not.
"""

from __future__ import annotations

ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
TAGS = (ANSWER_OPEN, ANSWER_CLOSE, THINK_OPEN, THINK_CLOSE)


def answer_in(completion: str) -> str | None:
    """Return what the last ``<answer>…</answer>`` pair holds, stripped; None when there is no pair."""
    last_close = completion.rfind(ANSWER_CLOSE)
    start = completion.rfind(ANSWER_OPEN, 0, max(last_close, 0))
    if start < 0:
        return None
    start += len(ANSWER_OPEN)
    return completion[start : completion.index(ANSWER_CLOSE, start)].strip()


def is_strict(completion: str) -> bool:
    """Tell whether the completion is an optional ``<think>…</think>``, one ``<answer>…</answer>`` and nothing else."""
    rest = completion.strip()
    if rest.startswith(THINK_OPEN):
        thought, closed, rest = rest[len(THINK_OPEN) :].partition(THINK_CLOSE)
        if not closed or _holds_tag(thought):
            return False
        rest = rest.lstrip()
    if not (rest.startswith(ANSWER_OPEN) and rest.endswith(ANSWER_CLOSE)):
        return False
    return not _holds_tag(rest[len(ANSWER_OPEN) : -len(ANSWER_CLOSE)])


def _holds_tag(text: str) -> bool:
    return any(tag in text for tag in TAGS)
