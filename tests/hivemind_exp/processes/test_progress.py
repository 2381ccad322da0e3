"""Time in which a process waits for a busy CPU is not held against it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from hivemind_exp.processes.progress import ProcessClock

SPIN = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nprint(flush=True)\nwhile True: pass"


@pytest.fixture
def spinning() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Eight processes that share one CPU."""
    started = [subprocess.Popen([sys.executable, "-S", "-c", SPIN], stdout=subprocess.PIPE) for _ in range(8)]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    yield started
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_waiting_for_a_busy_cpu_does_not_count(spinning: list[subprocess.Popen[bytes]]) -> None:
    clocks, begun = [ProcessClock(process.pid) for process in spinning], time.monotonic()
    for _ in range(5):
        time.sleep(0.1)
        counted = sum(each.look() for each in clocks)
    assert 0 < counted < 2 * (time.monotonic() - begun)  # by the clock, it would be eight times as long


def test_sleeping_counts() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        begun = time.monotonic()
        clock = ProcessClock(process.pid)
        time.sleep(0.1)
        assert clock.look() >= 0.1
        process.kill()
        process.wait()
        assert clock.look() <= time.monotonic() - begun
