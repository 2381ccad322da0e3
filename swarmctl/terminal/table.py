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


def print_table(rows: Sequence[Sequence[str]], headings: Sequence[str] = (), *, right: Collection[str] = ()) -> None:
    """Print rows on stdout. Each column is as wide as its widest cell; columns without text are omitted.

    If a table with headings is too wide for the terminal, each row is printed as a list. The terminal wraps a table
    without headings, so that copied lines stay whole.

    Args:
        rows: cells from left to right, as many as there are headings.
        headings: the column headings; empty if the columns need none.
        right: headings of the columns that are right-aligned, such as numbers.
    """
    # Imported here because most commands print no table.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    whole = [headings, *rows] if headings else rows
    grid = [[clean(cell).translate(_BLANKS) for cell in row] for row in whole]
    columns = [column for column in zip(*grid, strict=True) if any(column)]
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for column in columns:
        table.add_column(justify="right" if headings and column[0] in right else "left", no_wrap=True)
    for row in zip(*columns, strict=True):
        table.add_row(*map(Text, row))
    # Into a string: rich fails on ASCII streams, and it would adapt the table to the terminal's width.
    text = io.StringIO()
    console = Console(file=text, width=_WIDER_THAN_ANY, color_system=None)
    console.print(table)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    if headings and sys.stdout.isatty() and console.measure(table).maximum >= shutil.get_terminal_size().columns:
        lines = []
        for cells in grid[1:]:
            lines += [f"  {heading} {cell}" for heading, cell in zip(grid[0], cells, strict=True) if cell] + [""]
    for line in lines:
        print(encodable(line, sys.stdout.encoding))


def or_dash(value: Any, shown: Callable[[Any], str] = "{:,}".format) -> str:
    """Return the cell text for a value: a dash if it is None."""
    return "-" if value is None else shown(value)
