"""Growth of memory and the journal is said before it stops a node."""

from __future__ import annotations

import os
from pathlib import Path

from hivemind_exp.node_files import NodeFiles
from swarmctl.supervision.disk import Room, has_room, needed
from swarmctl.supervision.growth import GrowthWatch, NodeUsage, measure

GIB = 2**30
CALM = NodeUsage(memory=2 * GIB, journal=10 << 20, free=100 * GIB)


def usage(**changes: int) -> NodeUsage:
    values = {name: getattr(CALM, name) for name in ("memory", "journal", "free")}
    return NodeUsage(**(values | changes))


def settled(**settings: int) -> GrowthWatch:
    """Return the watch of a node that has settled in round 10."""
    watch = GrowthWatch(limit=16 * GIB, **settings)
    assert [text for round_ in (None, 0, 5, 10) for text in watch.take(CALM, round_)] == []
    return watch


def test_a_node_that_stays_as_it_is_says_nothing() -> None:
    watch = settled()
    assert [text for round_ in range(11, 2000) for text in watch.take(usage(memory=int(2.9 * GIB)), round_)] == []


def test_memory_that_grew_is_said_once_until_it_has_grown_much_more() -> None:
    watch = settled()
    (told,) = watch.take(usage(memory=4 * GIB), 50)
    assert told.startswith("the trainer's memory grew from 2.0 GiB in round 10 to 4.0 GiB in round 50.")
    assert list(watch.take(usage(memory=5 * GIB), 60)) == []
    assert len(list(watch.take(usage(memory=6 * GIB), 70))) == 1
    near = [text for text in watch.take(usage(memory=15 * GIB), 80) if "may soon kill" in text]
    assert near[0].startswith("the trainer uses 15.0 GiB of 16.0 GiB of memory, so the system may soon kill it. ")


def test_a_journal_that_will_fill_the_disk_is_said() -> None:
    grown = usage(journal=30 << 20, free=100 << 20)  # 1 MiB per round since round 10
    (told,) = settled().take(grown, 30)
    assert told == (
        "the journal grows by 1 MiB per round, and the disk has room for about 100 more rounds. Free space, or set "
        "journal.keep_rounds"
    )
    assert list(settled(rounds=120).take(grown, 30)) == []  # it ends before
    assert list(settled(keep_rounds=100).take(grown, 30)) == []  # older rounds are deleted by then
    assert len(list(settled(keep_rounds=1000).take(grown, 30))) == 1
    assert list(settled().take(usage(journal=30 << 20, free=GIB), 30)) == []


def test_a_real_process_and_disk_are_measured(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    files.journal.write_bytes(bytes(5000))
    found = measure(os.getpid(), files)
    assert found.memory > 1 << 20
    assert found.journal == 5000
    assert found.free > 0
    assert measure(2**22 + 1, files).memory == 0


def test_room_on_a_disk_is_for_checkpoints_and_can_really_be_written(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    least = needed(files)
    checkpoint = files.checkpoints / "00000004" / "model"
    checkpoint.mkdir(parents=True)
    (checkpoint / "weights").write_bytes(bytes(1000))
    assert needed(files) == Room(least.bytes + 2000, (least.files or 0) + 2)
    assert has_room(tmp_path, least)
    assert list(tmp_path.glob("tmp*")) == []
    assert not has_room(tmp_path, Room(1 << 60, None))
    assert not has_room(tmp_path / "missing", Room(1, None))


def test_a_few_free_inodes_are_not_enough_room() -> None:
    wanted = Room(16 << 20, 32)
    assert wanted.lacks(Room(1 << 30, 5)) == "5 inodes free"
    assert wanted.wanted(Room(1 << 30, 5)) == "32 inodes"
    assert wanted.lacks(Room(1 << 20, 5)) == "1 MiB free"
    assert wanted.wanted(Room(1 << 20, 5)) == "16 MiB"
    assert wanted.lacks(Room(1 << 30, None)) is wanted.lacks(Room(1 << 30, 32)) is None
