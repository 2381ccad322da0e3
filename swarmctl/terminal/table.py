"""Plain-text tables without borders. Every cell is untruncated and on one line."""

import io
import shutil
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any

from swarmctl.terminal.safe_text import clean, encodable

_WIDER_THAN_ANY = 1_000_000
_BLANKS = str.maketrans("\n\t", "  ")
"""A cell must be one line. Rich would cut off the text after a tab."""


def print_table(
    rows: Sequence[Sequence[str]],
    headings: Sequence[str] = (),
    *,
    right: Collection[str] = (),
    droppable: Sequence[str] = (),
) -> None:
    """Print rows on stdout. Each column is as wide as its widest cell; columns without text are omitted.

    If a table with headings is too wide for the terminal, columns are left out as far as allowed. If that is not
    enough, each row is printed as a list. The terminal wraps a table without headings, so that copied lines stay whole.

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
    room = shutil.get_terminal_size().columns if headings and sys.stdout.isatty() else _WIDER_THAN_ANY
    lines = _drawn(columns, right if headings else ())
    gone = list(droppable)
    while gone and _too_wide(lines, room):
        heading = gone.pop(0)
        columns = [column for column in columns if column[0] != heading]
        lines = _drawn(columns, right)
    if _too_wide(lines, room):
        lines = []
        for cells in grid[1:]:
            lines += [f"  {heading} {cell}" for heading, cell in zip(grid[0], cells, strict=True) if cell] + [""]
    for line in lines:
        print(encodable(line, sys.stdout.encoding))


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
