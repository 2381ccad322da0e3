"""Hidden directories in which something is made: nothing of them is left, however the program ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from swarmctl.storage.staging import staged
from tests.support.command_line import ROOT
from tests.support.waiting import LONG_S, until

MAKE = """
import sys, time
from pathlib import Path
from swarmctl.storage.staging import staged
with staged(Path(sys.argv[1])) as directory:
    (directory / "half").write_text("x")
    print(directory, flush=True)
    time.sleep(60)
"""


def making(target: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a program that makes ``target``, and return it with its directory."""
    process = subprocess.Popen([sys.executable, "-c", MAKE, str(target)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_what_was_made_gets_its_name_and_nothing_else_is_left(tmp_path: Path) -> None:
    with staged(tmp_path / "model") as directory:
        assert directory.stat().st_mode & 0o777 == 0o700
        (directory / "file").write_text("x")
        (directory / "rest").write_text("x")
        (directory / "file").rename(tmp_path / "model")
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]
    with staged(tmp_path / "other") as directory:
        directory.rename(tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "other"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with staged(tmp_path / "model") as directory:
            (directory / "file").write_text("x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process, directory = making(tmp_path / "model")
    assert (directory / "half").exists()
    process.send_signal(number)
    assert process.wait(LONG_S) == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_program_left_is_deleted_by_the_next_one_but_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".model.backup").mkdir()
    killed, left = making(tmp_path / "model")
    killed.kill()
    killed.wait(LONG_S)
    assert left.exists()
    living, used = making(tmp_path / "other")
    until(lambda: not left.exists())
    with staged(tmp_path / "third") as directory:
        assert sorted(tmp_path.iterdir()) == sorted([tmp_path / ".model.backup", used, directory])
    living.terminate()
    living.wait(LONG_S)
    assert list(tmp_path.iterdir()) == [tmp_path / ".model.backup"]
