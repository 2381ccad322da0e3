"""What a trainer shows of itself: open files that become too many, and life while it loads."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from hivemind_exp.events import NoteEvent, RoundEvent
from hivemind_exp.runner import loading_beat
from hivemind_exp.runner.open_files import OpenFilesWatch, count_open_files
from tests.support.recorded_events import Events
from tests.support.waiting import until


def test_many_open_files_are_said_once_until_there_are_more(monkeypatch: pytest.MonkeyPatch) -> None:
    events = Events()
    watch = OpenFilesWatch(events)
    a_round = RoundEvent(round=0, rounds=0, seconds={})
    watch(a_round)
    assert events.of("warning") == []
    opened = count_open_files()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2 * opened - 2, 2 * opened - 2))
    watch(NoteEvent(code="x", message="counted only after rounds"))
    watch(a_round)
    watch(a_round)
    (told,) = events.of("warning")
    assert told["code"] == "growth"
    assert f"the limit is {2 * opened - 2:,} (ulimit -n)" in told["message"]
    more = [os.open(os.devnull, os.O_RDONLY) for _ in range(opened)]
    watch(a_round)
    assert len(events.of("warning")) == 2
    for each in more:
        os.close(each)


def test_open_files_are_really_counted() -> None:
    before = count_open_files()
    with open(os.devnull, "rb"):
        assert count_open_files() == before + 1


def test_a_process_that_reads_or_writes_much_shows_life(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    beats: list[bool] = []
    moved = iter([0, 10, 20, 5000, 5010])
    monkeypatch.setattr(loading_beat, "EVERY_S", 0.001)
    monkeypatch.setattr(loading_beat, "blocks_moved", lambda: next(moved))
    with pytest.raises(StopIteration):
        loading_beat.beat_while_loading(lambda: beats.append(True))
    assert beats == [True]


def test_blocks_are_really_counted(tmp_path: Path) -> None:
    before = loading_beat.blocks_moved()

    def written() -> bool:
        with open(tmp_path / "x", "ab") as file:
            file.write(os.urandom(4 << 20))
            os.fsync(file.fileno())
        return loading_beat.blocks_moved() >= before + 2048

    until(written)
