"""A machine that slept, a clock that was set, and a Mac that stays awake."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from hivemind_exp.supervision_settings import SupervisionConfig
from swarmctl.supervision import sleep
from swarmctl.supervision.sleep import SleepWatch, kept_awake
from tests.support.waiting import until


class Clocks:
    """The machine's clocks, as a test sets them."""

    def __init__(self) -> None:
        self.awake, self.elapsed, self.wall = 100.0, 200.0, 1e9
        self.watch = SleepWatch(awake=lambda: self.awake, elapsed=lambda: self.elapsed, wall=lambda: self.wall)

    def passes(self, *, awake: float = 0, asleep: float = 0, jump: float = 0) -> tuple[float, float]:
        self.awake += awake
        self.elapsed += awake + asleep
        self.wall += awake + asleep + jump
        return self.watch.look()


def test_sleep_and_a_set_clock_are_told_apart() -> None:
    clocks = Clocks()
    assert clocks.passes(awake=2) == (0, 0)
    assert clocks.passes(awake=2, asleep=8040) == (8040, 0)
    assert clocks.passes(awake=2) == (0, 0)
    assert clocks.passes(awake=2, jump=3600) == (0, 3600)
    assert clocks.passes(awake=2, jump=-3600) == (0, -3600)
    assert clocks.passes(awake=2, asleep=30, jump=30) == (0, 0)
    assert clocks.passes(awake=7200) == (0, 0)  # this process was suspended, the machine was not


def test_the_real_clocks_of_a_machine_that_does_not_sleep() -> None:
    watch = SleepWatch()
    time.sleep(0.01)
    assert watch.look() == (0, 0)


def test_a_mac_is_kept_awake_as_long_as_the_node_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "caffeinate"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\nexec sleep 60\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with kept_awake(7, wanted=True) as awake:
        assert not awake or sys.platform == "darwin"
    monkeypatch.setattr(sleep.sys, "platform", "darwin")
    with kept_awake(7, wanted=SupervisionConfig(keep_awake=False).keep_awake) as awake:
        assert not awake
    with kept_awake(7, wanted=SupervisionConfig().keep_awake) as awake:
        assert awake
        until(lambda: (tmp_path / "called").exists() and (tmp_path / "called").read_text() == "-s -w 7\n")
