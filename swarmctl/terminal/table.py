"""Plain-text tables without borders. Every cell is untruncated and on one line."""

import io
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

from swarmctl.terminal.safe_text import clean, encodable, folded
from swarmctl.terminal.streams import width_of

_WIDER_THAN_ANY = 1_000_000
_NARROWEST = 24
"""Columns of the terminal that the last column of a table needs to be wrapped on its own."""
_BLANKS = str.maketrans("\n\t", "  ")
"""A cell must be one line. Rich would cut off the text after a tab."""


def print_table(
    rows: Sequence[Sequence[str]],
    headings: Sequence[str] = (),
    *,
    right: Collection[str] = (),
    droppable: Sequence[str] = (),
) -> None:
    """Print rows on stdout, as ``table_lines`` arranges them."""
    for line in table_lines(rows, headings, right=right, droppable=droppable):
        print(encodable(line, sys.stdout.encoding))


def table_lines(
    rows: Sequence[Sequence[str]],
    headings: Sequence[str] = (),
    *,
    right: Collection[str] = (),
    droppable: Sequence[str] = (),
) -> list[str]:
    """Return the lines of a table. Each column is as wide as its widest cell; columns without text are omitted.

    If a table with headings is too wide for the terminal, columns are left out as far as allowed, and a last line names
    them. If that is not enough, the last column is wrapped, or, if there is no room for it, each row becomes a list of
    its known values. In a table without headings, the last column is wrapped, or the whole row.

    Args:
        rows: cells from left to right, as many as there are headings.
        headings: the column headings; empty if the columns need none.
        right: headings of the columns that are right-aligned, such as numbers.
        droppable: headings of the columns that are left out if they are empty, or, in this order, on a narrow
        terminal.
    """
    whole = [headings, *rows] if headings else rows
    grid = [[clean(cell).translate(_BLANKS) for cell in row] for row in whole]
    columns = [column for column in zip(*grid, strict=True) if any(column)]
    columns = [column for column in columns if column[0] not in droppable or set(column[1:]) != {"-"}]
    room = width_of(sys.stdout) or _WIDER_THAN_ANY
    lines = _drawn(columns, right if headings else ())
    gone, hidden = list(droppable), []
    while gone and _too_wide(lines, room):
        heading = gone.pop(0)
        hidden += [heading for column in columns if column[0] == heading]
        columns = [column for column in columns if column[0] != heading]
        lines = _drawn(columns, right)
    note = f"Not shown: {', '.join(hidden)}. Use a wider terminal, or --json."
    notes = folded(note, max(20, room - 1)) if hidden else []
    if not _too_wide(lines, room):
        return [*lines, *notes]
    if not headings or (columns[-1][0] not in right and _has_room(columns, room, right)):
        return [*_wrapped(columns, room, right if headings else ()), *notes]
    lines = []
    for cells in grid[1:]:
        for heading, cell in zip(grid[0], cells, strict=True):
            if cell and (cell != "-" or heading not in droppable):
                lines += folded(f"{heading} {cell}", max(20, room - 1), begin="  ", indent="    ")
        lines.append("")
    return lines


def _has_room(columns: Sequence[tuple[str, ...]], room: int, right: Collection[str]) -> bool:
    """Return whether the last column can be wrapped beside the others."""
    firsts = _firsts(columns, right)
    longest = max(len(word) for cell in columns[-1] for word in cell.split() or [""])
    return room - max(map(len, firsts)) - 2 > max(_NARROWEST, longest)


def _firsts(columns: Sequence[tuple[str, ...]], right: Collection[str]) -> list[str]:
    """Return the lines of all columns but the last."""
    return _drawn(columns[:-1], right) if len(columns) > 1 else [""] * len(columns[0])


def _wrapped(columns: Sequence[tuple[str, ...]], room: int, right: Collection[str]) -> list[str]:
    """Return the rows of a table, wrapped between words."""
    firsts, beside = _firsts(columns, right), _has_room(columns, room, right)
    left = max(map(len, firsts)) + 2
    lines = []
    for first, row in zip(firsts, zip(*columns, strict=True), strict=True):
        if beside:
            lines += folded(row[-1] or " ", room - 1, begin=first.ljust(left), indent=" " * left) or [first]
        else:
            lines += folded("  ".join(filter(None, map(str.rstrip, row))), max(20, room - 1), indent="    ")
    return lines


def _too_wide(lines: Sequence[str], room: int) -> bool:
    from rich.cells import cell_len

    return max(map(cell_len, lines), default=0) >= room


def _drawn(columns: Sequence[tuple[str, ...]], right: Collection[str]) -> list[str]:
    """Return the lines of a table. A column whose first cell is in ``right`` is right-aligned."""
    # Imported here because most commands print no table.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for column in columns:
        table.add_column(justify="right" if column[0] in right else "left", no_wrap=True)
    for row in zip(*columns, strict=True):
        table.add_row(*map(Text, row))
    # Into a string: rich fails on ASCII streams, and it would adapt the table to the terminal's width.
    text = io.StringIO()
    Console(file=text, width=_WIDER_THAN_ANY, color_system=None).print(table)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def or_dash(value: Any, shown: Callable[[Any], str] = "{:,}".format) -> str:
    """Return the cell text for a value: a dash if it is None."""
    return "-" if value is None else shown(value)
