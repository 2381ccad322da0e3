"""Tables: untruncated in a pipe, lists on a narrow terminal, ASCII on an ASCII stream."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from swarmctl.terminal.streams import width_of
from swarmctl.terminal.table import print_table
from tests.support.command_line import ROOT

ROWS = [("", "müsli", "1"), ("", "[b]日本[/b]", "1,200")]
HEADINGS = ("rank", "name", "count")


def test_columns_are_aligned_by_display_width(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([["a", "bb"], ["日本", "b"]])
    assert capsys.readouterr().out == "a     bb\n日本  b\n"


def test_numbers_are_right_aligned_and_empty_columns_omitted(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([row[1:] for row in ROWS], HEADINGS[1:], right={"count"})
    print_table([("x", ""), ("yy", "")])
    out = capsys.readouterr().out.splitlines()
    assert out == ["name         count", "müsli            1", "[b]日本[/b]  1,200", "x", "yy"]


def test_cells_contain_no_control_characters_or_newlines(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([["\x1b[31ma\nb", "c\x07"]])
    assert capsys.readouterr().out == "a b  c\n"


def shown(rows: object, headings: object, *, columns: int, terminal: bool = True, **environment: str) -> str:
    """Return what a process prints on a terminal or into a pipe."""
    code = f"from swarmctl.terminal.table import print_table; print_table({rows!r}, {headings!r})"
    leader, follower = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": str(columns), "PYTHONUTF8": "0"} | environment,
        stdout=follower if terminal else subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=False,
    )
    assert done.stderr == b""
    os.close(follower)
    text = os.read(leader, 65536) if terminal else done.stdout
    os.close(leader)
    return text.decode().replace("\r\n", "\n")


@pytest.mark.slow
def test_pipe_gets_untruncated_lines_and_narrow_terminal_gets_lists() -> None:
    wide = [["x" * 30, "y" * 30]]
    assert shown(wide, ["a", "b"], columns=40, terminal=False).splitlines()[1] == "x" * 30 + "  " + "y" * 30
    assert shown(wide, ["a", "b"], columns=40) == f"  a {'x' * 30}\n  b {'y' * 30}\n\n"
    assert shown(wide, ["a", "b"], columns=80).splitlines()[1] == "x" * 30 + "  " + "y" * 30
    assert shown([["x", "-"]], ["a", "b"], columns=40) == "a  b\nx  -\n"


def test_with_headings_a_last_column_of_text_is_wrapped_beside_the_others() -> None:
    words = [["name", "3", "one two three four five six seven eight nine"]]
    expected = "a     n  text\nname  3  one two three four five six\n         seven eight nine\n"
    assert shown(words, ["a", "n", "text"], columns=40) == expected


def test_columns_that_are_left_out_are_named_below_a_wrapped_column_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("swarmctl.terminal.table.width_of", lambda _: 40)
    print_table([["name", "one two three four five six seven eight nine", "3"]], ["a", "text", "n"], droppable=["n"])
    assert capsys.readouterr().out == (
        "a     text\nname  one two three four five six seven\n      eight nine\n"
        "Not shown: n. Use a wider terminal, or\n--json.\n"
    )


@pytest.mark.slow
def test_without_headings_the_last_column_or_the_row_is_wrapped_between_words() -> None:
    words = [["name", "one two three four five six seven eight nine"]]
    assert shown(words, [], columns=40) == "name  one two three four five six seven\n      eight nine\n"
    assert shown(words, [], columns=40, terminal=False) == "name  one two three four five six seven eight nine\n"
    wide = [["x" * 30, "y" * 30]]
    assert shown(wide, [], columns=40) == "x" * 30 + "\n    " + "y" * 30 + "\n"


@pytest.mark.parametrize(
    "setting", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"FORCE_COLOR": "1"}, {"COLORTERM": "truecolor"}]
)
def test_tables_have_no_colors(setting: dict[str, str]) -> None:
    assert shown([["a", "b"]], ["c", "d"], columns=40, **setting) == "c  d\na  b\n"


def test_ascii_streams_get_ascii() -> None:
    assert shown([["→ …", "b"]], [], columns=40, terminal=False, PYTHONIOENCODING="ascii") == "-> ...  b\n"


def test_cell_keeps_its_spaces_and_a_tab_becomes_a_space(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([["* here", "one\ttwo"], ["  there", "a\nb"]])
    assert capsys.readouterr().out == "* here   one two\n  there  a b\n"


def test_each_stream_has_the_width_of_its_own_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is in a pipe or a file is never wrapped, also if another stream is a narrow terminal."""
    monkeypatch.delenv("COLUMNS", raising=False)
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 47))
    with os.fdopen(follower, "w") as terminal, (tmp_path / "file").open("w") as file:
        assert width_of(terminal) == 47
        assert width_of(file) is None
        monkeypatch.setenv("COLUMNS", "60")
        assert width_of(terminal) == 60
        assert width_of(file) is None
        monkeypatch.setenv("COLUMNS", "0")
        termios.tcsetwinsize(terminal.fileno(), (0, 0))
        assert width_of(terminal) == 80
    os.close(leader)


@pytest.mark.slow
def test_stderr_is_wrapped_at_its_own_width_while_stdout_is_a_pipe_and_not_at_all_in_one() -> None:
    """The widths are the terminal's, not those of the other stream."""
    code = "import sys; from swarmctl.terminal.views import Writer; Writer(sys.stderr)('word ' * 30)"
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    found = {}
    for to_terminal in (True, False):
        leader, follower = pty.openpty()
        termios.tcsetwinsize(follower, (24, 40))
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment,
            stdin=follower,
            stdout=subprocess.PIPE if to_terminal else follower,
            stderr=follower if to_terminal else subprocess.PIPE,
            check=True,
        )
        os.close(follower)
        found[to_terminal] = (os.read(leader, 4096) if to_terminal else done.stderr).decode().splitlines()
        os.close(leader)
    assert max(map(len, found[True])) == 39
    assert [len(line) for line in found[False]] == [150]
