"""Waiting for nodes: time in which they wait for a CPU does not count."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from tests.support.chaos import patience
from tests.support.chaos.patience import Patience, during, until


class Starved:
    """A process that got 0.1 s of CPU time in the first second, and then all it needed."""

    def __init__(self, _: int) -> None:
        self._able = iter((0.1, 1.1))

    def look(self) -> float:
        return next(self._able)


def test_a_second_in_which_a_node_waits_for_a_cpu_counts_only_as_what_it_got(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter((0.0, 1.0, 2.0, 3.0))
    monkeypatch.setattr(patience, "AbleTime", Starved)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as node:
        monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
        monkeypatch.setattr(patience, "descendants", lambda: {patience.psutil.Process(node.pid)})
        waiting = Patience()
        passed = [waiting.passed() for _ in range(3)]
        monkeypatch.undo()
        node.kill()
    assert passed == pytest.approx([1.0, 1.1, 2.1])


def test_waits_end_with_the_event_or_with_the_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "POLL_S", 0.0)
    monkeypatch.setattr(patience, "_LOOK_S", 0.0)
    looks = iter((False, True))
    assert until(lambda: next(looks), 60)
    assert not until(lambda: False, 0.01)
    watched: list[int] = []
    during(60, lambda: watched.append(1), lambda: len(watched) > 1)
    assert watched == [1, 1]
