"""Atomic file writes: after any failure, the old file is unchanged and no temporary file is left."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from hivemind_exp import atomic_write


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_private_by_default(tmp_path: Path) -> None:
    path = tmp_path / "a"
    atomic_write.write(path, "ä")
    assert (path.read_bytes(), mode(path)) == ("ä".encode(), 0o600)
    atomic_write.write(path, b"\xff", atomic_write.READABLE)
    assert (path.read_bytes(), mode(path)) == (b"\xff", 0o644)
    assert os.listdir(tmp_path) == ["a"]


def test_a_mode_can_be_kept_or_left_to_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "a"
    before = os.umask(0o027)
    try:
        atomic_write.write(path, "x", None)
        assert mode(path) == 0o640
        path.chmod(0o604)
        atomic_write.write(path, "y", None)
    finally:
        os.umask(before)
    assert (path.read_text(), mode(path)) == ("y", 0o604)


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_exclusive_write_never_replaces_a_file(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:

        def refused(*_: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refused)
    path = tmp_path / "a"
    atomic_write.write(path, "mine", exclusive=True)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for taken in (path, tmp_path / "dangling"):
        with pytest.raises(FileExistsError):
            atomic_write.write(taken, "theirs", exclusive=True)
    assert path.read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["a", "dangling"]


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    atomic_write.write(tmp_path / "link", "new")
    assert ((tmp_path / "a").read_text(), (tmp_path / "link").read_text()) == ("mine", "new")
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file(tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a"
    path.write_text("old")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space"):
        atomic_write.write(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_file_gets_its_name_only_when_complete_and_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    synced: list[tuple[bool, bool]] = []
    really = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.exists()))
        really(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_write.new_file(path) as file:
        file.write(b"half")
        assert not path.exists()
        file.write(b" and half")
    assert synced == [(False, False), (True, True)]
    assert path.read_bytes() == b"half and half"


def test_an_error_in_the_block_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def write_half() -> None:
        with atomic_write.new_file(path) as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_failed_write_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a"

    def write() -> None:
        with atomic_write.new_file(path) as file:
            os.dup2(os.open("/dev/full", os.O_WRONLY), file.fileno())
            file.write(b"x")

    with pytest.raises(OSError, match="No space left") as error:
        write()
    assert error.value.filename == str(path)
    assert not path.exists()
