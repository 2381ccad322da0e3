"""Ctrl-C at any moment of a command: our words and exit code, no traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest

from swarmctl import cli
from swarmctl.__main__ import main as entry_point
from swarmctl.errors import Exit
from tests.support.command_line import ROOT
from tests.support.terminals import rest_of, spawn


def test_an_interrupt_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("swarmctl.profiles.list.list_profiles", interrupted)
    assert cli.run(["profiles", "list"]) == Exit.INTERRUPTED


def test_an_interrupt_during_the_imports_prints_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "run", interrupted)
    with pytest.raises(SystemExit) as ended:
        entry_point()
    assert ended.value.code == Exit.INTERRUPTED
    assert capsys.readouterr().err == "Interrupted.\n"


@pytest.mark.parametrize("when", ["typer", "swarmctl.version"])
@pytest.mark.parametrize("how", ["-m", "script"])
def test_ctrl_c_during_the_imports_ends_the_program(when: str, how: str) -> None:
    """The signal arrives while a module is looked for, where an exception would become a traceback."""
    start = {
        "-m": "runpy.run_module('swarmctl', run_name='__main__')",
        "script": "from swarmctl.__main__ import main; main()",
    }[how]
    code = (
        "import os, runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {when!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        f"sys.argv = ['/x/swarmctl', 'status']; {start}"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (Exit.INTERRUPTED, "", "Interrupted.\n")
    # A terminal shows ^C first, on the same line.
    assert rest_of(spawn([sys.executable, "-c", code])) == "\r\nInterrupted.\r\n"


def test_a_program_that_imports_the_entry_point_keeps_its_handling_of_ctrl_c() -> None:
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import swarmctl.__main__; "
        "print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
