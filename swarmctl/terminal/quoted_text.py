"""Texts of models on a terminal. They are hostile: each keeps to its own column and can pass for nothing else."""

import unicodedata
from collections.abc import Iterator

from swarmctl.terminal.safe_text import clean

HEAD, TAIL = 500, 300
"""Characters that are shown of a long text: its beginning, and its end, where the answer stands."""
HEAD_LINES, TAIL_LINES = 8, 5
_NARROWEST = 16


def quoted(text: str, mark: str, *, width: int | None, full: bool) -> Iterator[str]:
    """Yield the lines of a text behind ``mark``, which the lines that only look like something else have too.

    ``width``: columns at which lines are broken; None leaves them as they are. Without ``full``, the middle of a long
    text is left out, in a line without the mark.
    """
    text = clean(text).expandtabs(4)
    room = None if width is None else max(_NARROWEST, width - len(mark) - 1)
    head, left_out, tail = (text, 0, "") if full else _cut(text)
    yield from _marked(head, mark, room)
    if left_out:
        yield f"{' ' * len(mark)}… {left_out:,} characters left out; --full shows them"
        yield from _marked(tail, mark, room)


def _cut(text: str) -> tuple[str, int, str]:
    """Return beginning and end of a long text, and how many characters are between; of a short one, all of it."""
    if len(text) <= HEAD + TAIL and text.count("\n") < HEAD_LINES + TAIL_LINES:
        return text, 0, ""
    head = "\n".join(text[:HEAD].split("\n")[:HEAD_LINES])
    tail = "\n".join(text[-TAIL:].split("\n")[-TAIL_LINES:])
    return head, len(text) - len(head) - len(tail), tail


def _marked(text: str, mark: str, room: int | None) -> Iterator[str]:
    for line in text.split("\n"):
        for part in [line] if room is None else _folded(line, room):
            yield f"{mark}{part}".rstrip()


def _folded(line: str, room: int) -> Iterator[str]:
    """Break a line at ``room`` columns, between any two characters: a terminal would do the same without the mark.

    Not with ``rich.cells``, which counts a chain of joined emoji as one: many terminals do not, and break the line.
    """
    begin = used = 0
    for index, character in enumerate(line):
        columns = _columns(character)
        if used + columns > room:
            yield line[begin:index]
            begin, used = index, 0
        used += columns
    yield line[begin:]


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
