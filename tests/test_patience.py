"""Time limits that count less on a busy machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support import patience
from tests.support.patience import Patience, finish, share, wait_for_end

SLEEPER = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(600)"]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the kernel says of the threads that are ready to run."""
    monkeypatch.setattr(patience, "_LOAD", tmp_path / "loadavg")
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    return tmp_path / "loadavg"


def test_a_second_counts_as_the_share_of_a_cpu_that_a_process_gets(load: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter((0.0, 10.0, 20.0, 30.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    limit = Patience(13)
    passed = []
    for ready in (1, 8, 40):
        load.write_text(f"1.00 1.00 1.00 {ready}/400 9\n")
        passed.append((limit.passed(), limit._passed >= limit._seconds))
    monkeypatch.undo()
    assert passed == [(10.0, False), (12.5, False), (13.0, True)]


def test_other_systems_give_an_average(load: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (4.0, 0.0, 0.0))
    assert not load.exists()
    assert share() == 0.5


def test_what_a_process_printed_is_returned_at_its_end() -> None:
    program = "import sys; print('x' * 200_000); print('y', file=sys.stderr); sys.exit(3)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=-1, stderr=-1, text=True) as process:
        out, err = finish(process)
        assert (len(out), err, wait_for_end(process)) == (200_001, "y\n", 3)


def test_a_process_that_does_not_end_is_no_longer_waited_for() -> None:
    with subprocess.Popen(SLEEPER, stdout=subprocess.PIPE, text=True) as process:
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                wait_for_end(process, 0.01)
            with pytest.raises(subprocess.TimeoutExpired):
                finish(process, 0.01)
        finally:
            process.kill()
