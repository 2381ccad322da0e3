"""A node's log is rotated: every event stays in exactly one file, whoever writes, reads, or is killed meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hivemind_exp import event_files
from hivemind_exp.event_log import EventLog
from hivemind_exp.events import NoteEvent, WarningEvent
from hivemind_exp.node_files import NodeFiles
from swarmctl.report.timeline import Timeline
from swarmctl.storage.event_log import EventReader, all_of, recent
from swarmctl.storage.followed_file import FollowedFile

MOST = 8 * 1000
WRITER = """
import sys
from pathlib import Path
from hivemind_exp.event_log import EventLog
from hivemind_exp.events import NoteEvent
name, count, most = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
log = EventLog(Path(sys.argv[1]), most=most)
print(flush=True)
for number in range(count):
    if not most:  # as the supervisor, which opens the log for each event
        log = EventLog(Path(sys.argv[1]))
    log(NoteEvent(code=name, message=str(number)))
    if not most:
        log.close()
"""


@pytest.fixture
def events(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


def write(events: Path, numbers: range, most: int = MOST) -> None:
    log = EventLog(events, most=most)
    for number in numbers:
        log(NoteEvent(code="n", message=f"{number:0110}"))
    log.close()


def numbers(found: object) -> list[int]:
    return [int(event["message"]) for event in found]  # type: ignore[attr-defined]


def names(events: Path) -> list[str]:
    return [path.name for path in sorted(events.parent.iterdir())]


def test_a_log_is_rotated_and_its_oldest_parts_are_deleted(events: Path) -> None:
    write(events, range(100))
    parts = [int(path.stem.removeprefix("events-")) for path in event_files.older_parts(events)]
    assert parts == list(range(parts[0], parts[-1] + 1))
    assert parts[0] > 10
    assert sum(path.stat().st_size for path in events.parent.iterdir()) <= MOST
    kept = numbers(all_of(events, "note"))
    assert kept == list(range(kept[0], 100))
    assert len(kept) > 30
    assert numbers(recent(events, 3000)) == kept[-len(numbers(recent(events, 3000))) :]
    assert len(numbers(recent(events, 3000))) > 10
    assert numbers(EventReader(events, whole=True)()) == kept


def test_without_a_bound_a_log_is_not_rotated(events: Path) -> None:
    write(events, range(100), most=0)
    assert names(events) == ["events.jsonl"]


def test_a_log_that_is_killed_between_two_actions_continues(events: Path) -> None:
    write(events, range(5))
    follower = EventReader(events, whole=True)
    assert numbers(follower()) == list(range(5))
    events.rename(events.with_name("events-000001.jsonl"))  # the writer was killed before it opened the new file
    assert numbers(follower()) == []
    assert event_files.exists(events)
    assert numbers(all_of(events, "note")) == numbers(recent(events)) == list(range(5))
    write(events, range(5, 30))
    assert numbers(follower()) == list(range(5, 30))
    assert numbers(all_of(events, "note")) == list(range(30))


def test_a_reader_that_missed_several_rotations_reads_all_parts_in_order(events: Path) -> None:
    write(events, range(3))
    end, whole = EventReader(events), EventReader(events, whole=True)
    write(events, range(3, 40))
    assert len(event_files.older_parts(events)) > 5
    assert numbers(whole()) == list(range(40))
    assert numbers(end()) == list(range(3, 40))
    write(events, range(40, 45))
    assert numbers(whole()) == numbers(end()) == list(range(40, 45))


def test_a_log_that_logrotate_renamed_is_followed(events: Path) -> None:
    write(events, range(22))
    reader = EventReader(events)
    write(events, range(22, 24))
    events.rename(f"{events}.1")
    write(events, range(24, 40))
    assert numbers(reader()) == list(range(22, 40))


def test_lines_written_just_before_the_rotation_are_read(events: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(events, range(2))
    reader = EventReader(events)
    look = FollowedFile._open_newer

    def rotated_meanwhile(file: FollowedFile) -> bool:
        monkeypatch.setattr(FollowedFile, "_open_newer", look)
        write(events, range(2, 20))  # after the old file was read to its end, before it is compared with the new one
        return look(file)

    monkeypatch.setattr(FollowedFile, "_open_newer", rotated_meanwhile)
    assert numbers(reader()) == list(range(2, 20))


def test_a_line_that_a_full_disk_cut_short_does_not_spoil_the_next(events: Path) -> None:
    write(events, range(2))
    with events.open("ab") as file:
        file.write(b'{"t": 1, "event": "no')
    write(events, range(2, 3))
    assert numbers(all_of(events, "note")) == [0, 1, 2]


def test_a_writer_does_not_wait_long_for_one_that_was_stopped(events: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(event_files.time, "sleep", waits.append)
    write(events, range(1))
    with events.open("rb") as held:
        event_files.lock_briefly(held.fileno())
        write(events, range(1, 2))
    assert 0 < sum(waits) < 10
    assert numbers(all_of(events, "note")) == [0, 1]


@pytest.mark.slow
def test_nothing_is_lost_or_doubled_while_two_processes_write(events: Path) -> None:
    """One of them rotates, and is killed several times. Readers follow all the time."""
    # So much that a part is not deleted before the reader has come to it, on a machine that is busy, too.
    count, most = 1500, 1_000_000

    def start(name: str, number: int, limit: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", WRITER, str(events), name, str(number), str(limit)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(event_files.__file__).parents[1])
        assert process.stdout is not None
        process.stdout.readline()
        return process

    reader, found, seen = EventReader(events), list[tuple[str, int]](), 0
    supervisor, trainer = start("supervisor", count, 0), start("trainer 0", 10**6, most)
    kills = 0
    while supervisor.poll() is None or kills < 3:
        found += [(event["code"], int(event["message"])) for event in reader()]
        whole = [event["message"] for event in all_of(events, "note") if event["code"] == "supervisor"]
        assert whole == sorted(set(whole), key=int)
        if len(found) > seen + 2000:
            os.kill(trainer.pid, signal.SIGKILL)
            trainer.wait()
            kills, seen = kills + 1, len(found)
            trainer = start(f"trainer {kills}", 10**6, most)
    trainer.kill()
    trainer.wait()
    found += [(event["code"], int(event["message"])) for event in reader()]
    for name in {name for name, _ in found}:
        heard = [number for each, number in found if each == name]
        assert heard == list(range(len(heard))), name
    assert [number for each, number in found if each == "supervisor"] == list(range(count))
    files = list(events.parent.iterdir())
    assert len(files) > 2, "rotated"
    assert sum(path.stat().st_size for path in files) <= most


def test_a_report_reads_all_parts(events: Path) -> None:
    following = Timeline(NodeFiles(events.parent))
    log = EventLog(events, most=8000)
    for number in range(40):
        log(WarningEvent(code="growth", message=f"warning {number:02}"))
        if number % 10 == 0:
            following.read()
    log.close()
    new = Timeline(NodeFiles(events.parent))
    for timeline in (following, new):
        timeline.read()
    assert len(event_files.older_parts(events)) > 2
    assert [each["times"] for each in new.problems.values()] == [40]
    assert [each["times"] for each in following.problems.values()] == [40]


@pytest.mark.parametrize("special", ["/dev/zero", "/dev/full", "/dev/null", "pipe"])
def test_a_device_or_a_pipe_in_place_of_the_log_has_no_events(tmp_path: Path, special: str) -> None:
    """Reading it would never end."""
    events = tmp_path / "events.jsonl"
    if special == "pipe":
        os.mkfifo(events)
    else:
        events.symlink_to(special)
    (tmp_path / "events-000001.jsonl").write_bytes(b"{}\n")
    assert list(event_files.lines(events)) == event_files.tail(events, 100) == [b"{}\n"]
