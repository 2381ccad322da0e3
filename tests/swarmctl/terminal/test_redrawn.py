"""Lines that are redrawn leave nothing behind when the terminal is narrowed."""

from __future__ import annotations

import io
import os

import pytest
from rich.text import Text

from swarmctl.terminal.redrawn import Redrawn

UP = "\x1b[1A"


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True

    def taken(self) -> str:
        """Return what was written since the last call."""
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


@pytest.fixture
def columns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The terminal's width, as its only item."""
    found = [80]
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("LINES", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((found[0], 24)))
    return found


@pytest.mark.parametrize(
    ("width", "rows"),
    [(80, 3), (100, 3), (60, 3), (59, 4), (20, 5), (10, 9)],
)
@pytest.mark.parametrize("first", ["draw", "note"])
def test_all_rows_of_lines_that_the_terminal_wrapped_are_erased(
    columns: list[int], width: int, rows: int, first: str
) -> None:
    terminal = Terminal()
    with Redrawn(terminal, erased=True) as lines:
        lines.draw(Text("\n".join(("a" * 60, "b" * 20, "c"))))
        terminal.taken()
        columns[0] = width
        if first == "note":
            lines.note("A sentence.")
        else:
            lines.draw(Text("d"))
        assert terminal.taken().count(UP) == rows - 1
