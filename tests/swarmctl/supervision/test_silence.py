"""Whether a trainer hangs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.stop import BeatingFlag
from swarmctl.supervision import silence
from swarmctl.supervision.silence import SilenceWatch


class Clock:
    """Stands in for the time in which a process could act."""

    def __init__(self, _pid: int) -> None:
        self.now = 0.0

    def look(self) -> float:
        return self.now


@pytest.fixture
def beat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(silence, "ProcessClock", Clock)
    path = tmp_path / "lock"
    path.touch()
    os.utime(path, (1, 1))
    return path


def passes(watch: SilenceWatch, seconds: float) -> bool:
    """Let time pass in looks of two seconds; return whether the trainer hangs at the end."""
    hangs = False
    for _ in range(round(seconds / 2)):
        clock(watch).now += 2
        hangs = watch.look()
    return hangs


def looked_at(hang_after: float, beat: Path) -> SilenceWatch:
    """Return a watch of this process that has looked once."""
    watch = SilenceWatch(os.getpid(), hang_after, beat)
    assert not watch.look()
    return watch


def clock(watch: SilenceWatch) -> Clock:
    found: Any = watch._clock
    assert isinstance(found, Clock)
    return found


def a_round(seconds: float, **more: Any) -> dict[str, Any]:
    return {"event": "round", "round": 0, "seconds": {"generate": seconds, "train": None}, **more}


def test_the_limit_follows_the_usual_round(beat: Path) -> None:
    watch = looked_at(600, beat)
    assert watch.limit == 3600  # models are loaded before the first round
    for seconds in (1, 1, 100):
        watch.event(a_round(seconds))
    watch.event(a_round(0.001, replayed=True))  # repeating takes less time
    assert (watch.usual, watch.limit) == (1, 600)
    for _ in range(4):
        watch.event(a_round(60))
    assert watch.limit == 1200
    assert not passes(watch, 1200)
    assert passes(watch, 2)
    assert watch.silence == 1202


def test_events_and_checks_for_a_stop_are_signs_of_life(beat: Path) -> None:
    watch = looked_at(10, beat)
    watch.event(a_round(0.1))
    assert not passes(watch, 10)
    watch.event({"event": "checkpoint"})
    assert not passes(watch, 10)
    BeatingFlag(beat).check()
    assert not passes(watch, 10)
    assert passes(watch, 4)


def test_a_gap_between_looks_is_no_silence(beat: Path) -> None:
    watch = looked_at(10, beat)
    watch.event(a_round(0.1))
    assert not watch.look()
    clock(watch).now += 8000  # this process was suspended, too
    assert not watch.look()


def test_only_the_main_thread_shows_life_and_not_more_than_once_a_second(tmp_path: Path) -> None:
    from threading import Thread

    path = tmp_path / "lock"
    path.touch()
    os.utime(path, (1, 1))
    flag = BeatingFlag(path)
    thread = Thread(target=flag.is_set)
    thread.start()
    thread.join()
    assert path.stat().st_mtime == 1
    assert not flag.is_set()
    assert path.stat().st_mtime > 1
    os.utime(path, (1, 1))
    flag.set()
    assert flag.is_set()
    assert path.stat().st_mtime == 1
    # Nor does a main process that waits for another one.
    assert BeatingFlag(path).requested() is False
    assert path.stat().st_mtime == 1
    path.unlink()
    assert BeatingFlag(path).is_set() is False  # the node's directory was deleted


def test_a_trainer_that_has_just_ended_does_not_hang(tmp_path: Path) -> None:
    assert not SilenceWatch(2**22 + 1, 10, tmp_path / "lock").look()  # no such process
