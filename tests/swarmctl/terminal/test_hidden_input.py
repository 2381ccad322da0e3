"""What is typed while something is drawn, and Ctrl-Z: in a real shell on a pseudo-terminal."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pexpect
import psutil
import pytest

from swarmctl.errors import Exit
from tests.support.command_line import STAND_IN, run_process
from tests.support.terminals import expect_words, spawn
from tests.support.waiting import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("no_leftovers"),
    pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash"),
]

PROMPT = "ready> "
RUN = shlex.join([*STAND_IN, "run", "-p", "demo", "--rounds", "0"])
WAIT = """
import sys, time
from swarmctl.terminal.waiting import waiting
with waiting(print, "looking around"):
    print("begun", flush=True)
    time.sleep(float(sys.argv[1]))
print("over", flush=True)
"""


@pytest.fixture
def shell(home: Path) -> Iterator[pexpect.spawn[str]]:
    """A shell with job control."""
    environment = os.environ | {"TERM": "xterm", "CI": "", "PS1": PROMPT, "SWARMCTL_HOME": str(home)}
    terminal = spawn(["bash", "--norc", "--noediting"], environment=environment, rows=30, columns=100)
    terminal.expect_exact(PROMPT)
    yield terminal
    for child in psutil.Process(terminal.pid).children(recursive=True):
        child.send_signal(signal.SIGCONT)
        child.terminate()
    terminal.close(force=True)


def await_events(log: Path) -> None:
    """Wait until the trainer has written another event."""
    size = log.stat().st_size
    until(lambda: log.stat().st_size > size)


def say(shell: pexpect.spawn[str], command: str) -> str:
    """Type a command and return what it printed."""
    shell.sendline(command)
    shell.expect_exact("\r\n")  # the end of the echoed line
    shell.expect_exact(PROMPT)
    return str(shell.before)


def echoes(shell: pexpect.spawn[str]) -> bool:
    """Whether the terminal shows what is typed."""
    return re.search(r"(?<!-)\becho\b", say(shell, "stty -a")) is not None


def start(shell: pexpect.spawn[str], command: str = RUN) -> None:
    """Start a program that draws, and wait until it does."""
    shell.sendline(command)
    shell.expect("now  .*Round")


def test_typing_does_not_reach_the_screen_and_the_shell_gets_a_sound_terminal_back(
    shell: pexpect.spawn[str],
) -> None:
    start(shell)
    shell.send("typed\r\r\rletters")
    shell.expect(r"Round \d+ done")
    shell.sendintr()
    shell.expect_exact(PROMPT)
    drawn = str(shell.before)
    assert "typed" not in drawn
    assert "letters" not in drawn
    assert "^C" not in drawn
    assert "Stopping within" in drawn
    assert "letters" not in say(shell, "echo next")  # what was typed blindly is no command
    assert echoes(shell)


def test_a_suspended_run_continues_and_fg_draws_it_again(shell: pexpect.spawn[str], home: Path) -> None:
    start(shell)
    shell.send("\x1a")
    expect_words(shell, "Node demo continues. To show this view again: fg. To stop the node:")
    shell.expect_exact("Stopped")
    shell.expect_exact(PROMPT)
    assert echoes(shell)
    await_events(home / "nodes/demo/events.jsonl")  # the trainer was not stopped
    shell.sendline("fg")
    shell.expect("now  .*Round")
    shell.send("typed\r")
    shell.expect(r"Round \d+ done")
    assert "typed" not in str(shell.before)
    shell.sendintr()
    expect_words(shell, "Stopped after")
    shell.expect_exact(PROMPT)
    assert echoes(shell)


def test_a_run_in_the_background_draws_nothing(shell: pexpect.spawn[str], home: Path) -> None:
    start(shell)
    shell.send("\x1a")
    shell.expect_exact("Stopped")
    shell.expect_exact(PROMPT)
    say(shell, "bg")
    for _ in range(4):  # rounds, each of which would be drawn
        await_events(home / "nodes/demo/events.jsonl")
    assert "Round" not in say(shell, "echo quiet")
    shell.sendline("fg")
    shell.expect("now  .*Round")
    shell.sendintr()
    shell.expect_exact(PROMPT)
    assert echoes(shell)


@pytest.mark.parametrize(("command", "drawn"), [("attach", "now  .*Round"), ("status --watch", "To leave, press")])
def test_other_views_are_suspended_and_drawn_again(shell: pexpect.spawn[str], command: str, drawn: str) -> None:
    say(shell, f"{RUN} --detach")
    shell.sendline(f"{shlex.join(STAND_IN)} {command}")
    shell.expect(drawn)
    shell.send("typed\r\r")
    shell.expect(drawn)
    shell.send("\x1a")
    shell.expect_exact("Stopped")
    assert "typed" not in str(shell.before)
    shell.expect_exact(PROMPT)
    assert echoes(shell)
    shell.sendline("fg")
    shell.expect(drawn)
    shell.sendintr()
    shell.expect_exact(PROMPT)
    assert echoes(shell)
    say(shell, f"{shlex.join(STAND_IN)} stop --all")


def test_stop_from_another_terminal_draws_a_running_view_only_once(shell: pexpect.spawn[str]) -> None:
    start(shell)
    hidden_cursor = "\x1b[?25l"  # written when a view is drawn for the first time
    assert f"{shell.before}{shell.after}".count(hidden_cursor) == 1
    assert run_process([*STAND_IN, "stop"]).returncode == Exit.DONE
    expect_words(shell, "Stopped after")
    assert hidden_cursor not in str(shell.before)
    assert "\x1b[1A\x1b[2K" in str(shell.before)  # the view is erased
    shell.expect_exact(PROMPT)
    assert echoes(shell)


def test_stop_ends_a_suspended_run(shell: pexpect.spawn[str]) -> None:
    start(shell)
    shell.send("\x1a")
    shell.expect_exact("Stopped")
    shell.expect_exact(PROMPT)
    shell.sendline(shlex.join([*STAND_IN, "stop"]))
    expect_words(shell, "Stopped node demo after")
    shell.expect_exact(PROMPT)
    assert echoes(shell)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_view_that_a_signal_ends_restores_the_terminal(shell: pexpect.spawn[str], number: signal.Signals) -> None:
    command = [sys.executable, "-c", WAIT, "60"]
    shell.sendline(f"{shlex.join(command)}; echo code $?")
    shell.expect_exact("begun")
    shell.expect_exact("Looking around: 1 s")
    (process,) = psutil.Process(shell.pid).children()
    process.send_signal(number)
    shell.expect_exact(f"code {128 + number}")
    shell.expect_exact(PROMPT)
    assert echoes(shell)


def test_the_line_that_shows_a_wait_is_erased_at_ctrl_z_and_drawn_again(shell: pexpect.spawn[str]) -> None:
    shell.sendline(shlex.join([sys.executable, "-c", WAIT, "6"]))
    shell.expect_exact("Looking around: 1 s")
    shell.send("typed")
    shell.send("\x1a")
    shell.expect_exact("Stopped")
    assert "\x1b[K" in str(shell.before)
    assert "typed" not in str(shell.before)
    shell.expect_exact(PROMPT)
    shell.sendline("fg")
    shell.expect("Looking around: [2-9] s")
    shell.expect_exact("over")
    shell.expect_exact(PROMPT)
    assert echoes(shell)


def test_ctrl_z_without_a_shell_that_could_continue_the_program_has_no_effect() -> None:
    terminal = spawn([sys.executable, "-c", WAIT, "3"], environment=os.environ | {"TERM": "xterm", "CI": ""})
    terminal.expect_exact("Looking around: 1 s")
    terminal.send("\x1a")
    terminal.expect_exact("over", timeout=20)
    terminal.close()


def test_the_settings_of_a_pager_are_left_alone(shell: pexpect.spawn[str]) -> None:
    shell.sendline(f"{shlex.join([sys.executable, '-c', WAIT, '3'])} | cat")
    shell.expect_exact("Looking around: 1 s")
    shell.send("seen")
    shell.expect_exact("seen")
    shell.expect_exact("over")


def test_an_exception_restores_the_terminal(shell: pexpect.spawn[str]) -> None:
    failing = textwrap.dedent("""
        import time
        from swarmctl.terminal.waiting import waiting
        with waiting(print, "looking around"):
            time.sleep(1.5)
            raise SystemExit("it broke")
    """)
    shell.sendline(shlex.join([sys.executable, "-c", failing]))
    shell.expect_exact("it broke")
    shell.expect_exact(PROMPT)
    assert echoes(shell)
