"""Reading a node's events while it writes, rotates or loses them."""

from __future__ import annotations

from pathlib import Path

from swarmctl.storage.event_log import EventReader


def test_an_event_is_read_only_when_its_line_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = EventReader(path)
    assert list(tail()) == []
    path.write_text('{"t": 1, "event": "a"}\n{"t": 2, "eve')
    assert [event["event"] for event in tail()] == ["a"]
    with path.open("a") as file:
        file.write('nt": "b"}\nnot json\n[1]\n{"event": 3}\n{"t": 3, "event": "c"}\n')
    assert [event["event"] for event in tail()] == ["b", "c"]
    assert list(EventReader(path)()) == []


def test_a_rotated_log_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"

    def write(*names: str) -> None:
        with path.open("a") as file:
            file.writelines(f'{{"t": 1, "event": "{name}"}}\n' for name in names)

    def read() -> list[str]:
        return [event["event"] for event in tail()]

    tail = EventReader(path)
    write("a", "b")
    assert read() == ["a", "b"]
    write("c")
    path.rename(tmp_path / "events.jsonl.1")
    write("d", "e", "f")
    assert [*read(), *read()] == ["c", "d", "e", "f"]
    path.write_text("")
    write("g")
    assert read() == ["g"]
    path.unlink()
    assert read() == []
    write("h")
    assert read() == ["h"]
