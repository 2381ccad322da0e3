"""Files with a format number: a damaged or newer file is never taken for an older or missing one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hivemind_exp import atomic_write
from hivemind_exp.errors import FileProblem, NewerFormat
from hivemind_exp.formats import FORMAT, explain_obstacle, read_object
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.trainer.checkpoints import CheckpointStore, damage
from tests.support.recorded_events import Events


def test_a_missing_file_is_not_an_error(tmp_path: Path) -> None:
    assert read_object(tmp_path / "x") is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(FileProblem, match="is damaged"):
        read_object(tmp_path / "x")


@pytest.mark.parametrize("number", [FORMAT + 1, -1, '"x"', "1.5", "[]"])
def test_an_unknown_format_is_refused(tmp_path: Path, number: object) -> None:
    (tmp_path / "x").write_text(f'{{"schema": {number}}}')
    with pytest.raises(NewerFormat, match="has format"):
        read_object(tmp_path / "x")


@pytest.mark.parametrize("content", ['{"a": 2}', '{"schema": null, "a": 2}', f'{{"schema": {FORMAT}, "a": 2}}'])
def test_files_of_this_and_older_versions_are_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "x").write_text(content)
    assert (read_object(tmp_path / "x") or {})["a"] == 2


def test_a_newer_checkpoint_is_refused_and_not_renamed_as_damaged(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, 2, Events())
    saved = store.save(1, 1, lambda _: None)
    seal = saved.path / "checkpoint.json"
    seal.write_text(seal.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(NewerFormat):
        store.latest()
    assert saved.path.exists()
    seal.write_text(seal.read_text().replace('"schema": 2,', ""))
    assert damage(saved.path) is None


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_damaged_secret_is_refused(tmp_path: Path, size: int) -> None:
    files = NodeFiles(tmp_path)
    assert len(files.secret()) == 32
    files.secret_file.write_bytes(b"x" * size)
    with pytest.raises(FileProblem, match=f"{size} bytes instead of 32"):
        files.secret()


def test_what_is_in_the_way_is_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    attempts: list[tuple[Callable[[], object], str, str]] = [
        ((tmp_path / "directory").read_bytes, "directory", "a directory, but a file"),
        (lambda: atomic_write.write(tmp_path / "directory", "x"), "directory", "a directory, but a file"),
        ((tmp_path / "file/below").mkdir, "file", "not a directory"),
        (lambda: (tmp_path / "file").mkdir(exist_ok=True), "file", "not a directory"),
        (lambda: (tmp_path / "link").mkdir(exist_ok=True), "link", "not a directory"),
    ]
    for attempt, name, words in attempts:
        with pytest.raises(OSError, match="Errno") as raised:
            attempt()
        problem = explain_obstacle(raised.value)
        assert problem is not None
        assert f"{tmp_path / name} is {words}" in problem.message
        assert problem.next is not None
        subprocess.run(problem.next, shell=True, check=True)
        assert not os.path.lexists(tmp_path / name)
        (tmp_path / f"{name}.aside1").rename(tmp_path / name)


def test_other_errors_name_no_obstacle(tmp_path: Path) -> None:
    for attempt in ((tmp_path / "missing").read_bytes, tmp_path.mkdir):
        with pytest.raises(OSError, match="Errno") as raised:
            attempt()
        assert explain_obstacle(raised.value) is None


def test_a_device_in_the_way_is_not_moved_aside() -> None:
    with pytest.raises(NotADirectoryError) as raised:
        Path("/dev/null/node").mkdir()
    problem = explain_obstacle(raised.value)
    assert problem is not None
    assert str(problem) == "/dev/null is not a directory, but one is needed there"
    assert problem.next == "ls -l /dev/null"
