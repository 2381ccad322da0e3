"""The answer to a yes-or-no question: only yes and no are shown while they are typed."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

import pexpect
import pytest

from hivemind_exp.errors import NodeError
from swarmctl.terminal import prompter
from swarmctl.terminal.short_answer import ShortAnswer, read_short_answer
from tests.support.terminals import end_input, rest_of, spawn

ASK = (
    "import sys; from swarmctl.terminal.short_answer import read_short_answer;"
    "answer = read_short_answer('Sure? ', sys.stdin, sys.stderr); print(repr(answer))"
)


def asked(before: str = "") -> pexpect.spawn[str]:
    """Start a program that asks; ``before``: what it does first."""
    return spawn([sys.executable, "-c", before + ASK])


@pytest.mark.parametrize(
    ("typed", "shown", "text"),
    [
        ("y\n", "y", "y"),
        ("YES\r", "YES", "YES"),
        ("no\n", "no", "no"),
        ("\n", "", ""),
        ("secret-key\n", "", "secret-key"),
        ("nope\n", "no", "nope"),
        ("yx\x7f\x7fn\n", "y\b \bn", "n"),
        ("sk-abc\x15y\n", "y", "y"),
        ("été\n", "", "été"),
    ],
)
def test_only_yes_and_no_are_shown(typed: str, shown: str, text: str) -> None:
    terminal = asked()
    terminal.expect_exact("Sure? ")
    terminal.send(typed)
    assert rest_of(terminal) == f"{shown}\r\nShortAnswer(text={text!r}, on_screen=False)\r\n"


def test_what_is_typed_before_the_question_may_be_on_the_screen() -> None:
    terminal = asked("import os; print('Ready.', flush=True); open(os.ctermid()).readline();")
    terminal.expect_exact("Ready.")
    terminal.send("first\nsecond\n")
    assert rest_of(terminal).endswith("Sure? \r\nShortAnswer(text='second', on_screen=True)\r\n")


@pytest.mark.parametrize("leave", [end_input, pexpect.spawn.sendintr])
def test_the_terminal_shows_what_is_typed_again_afterwards(leave: Callable[[pexpect.spawn[str]], None]) -> None:
    terminal = spawn(["/bin/sh", "-c", f'trap : INT; "{sys.executable}" -c "{ASK}" 2>/dev/tty || true; stty -a'])
    terminal.expect_exact("Sure? ")
    leave(terminal)
    said = rest_of(terminal)
    assert " echo " in said
    assert " icanon " in said
    assert said.startswith("None\r\n") == (leave is end_input)
    assert ("KeyboardInterrupt" in said) == (leave is not end_input)


def test_without_a_terminal_a_line_is_read() -> None:
    screen = io.StringIO()
    found = read_short_answer("Sure? ", io.StringIO(f" y {os.linesep}n"), screen)
    assert found is not None
    assert (found.text, found.on_screen, screen.getvalue()) == ("y", True, "Sure? ")
    assert read_short_answer("Sure? ", io.StringIO(), screen) is None


def test_a_key_that_was_shown_has_to_be_replaced_if_others_see_the_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = "sk-test-0123456789abcd9f3c"
    answers = (ShortAnswer(text, on_screen=True) for text in ("maybe", key, "Y"))
    monkeypatch.setattr(prompter, "read_short_answer", lambda *_: next(answers))
    asking = prompter.Prompter()
    asking.can_ask = True
    asking.confirm("Sure?", NodeError("nobody can answer"))
    first, second = capsys.readouterr().err.splitlines()
    assert first == "Answer y or n."
    assert second == (
        "That may be a key. It is on the screen, so replace it if anyone else can see the screen. Type a key only at a "
        "hidden prompt. Answer y or n."
    )
