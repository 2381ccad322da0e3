"""``swarmctl restore`` refuses files that are hostile, damaged or no backups, and names that are taken."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from swarmctl.errors import Exit
from swarmctl.nodes.lookup import files_of
from tests.support.backups import message, node, one_machine, restore, saved

__all__ = ["node", "one_machine", "saved"]


def rewrite(path: Path, change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> None:
    """Change a backup's members."""
    with tarfile.open(path) as archive:
        members = [(each, archive.extractfile(each).read()) for each in archive]  # type: ignore[union-attr]
    change(members)
    with tarfile.open(path, "w") as archive:
        for member, content in members:
            archive.addfile(member, io.BytesIO(content))


def listing(**changes: Any) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]:
    """Return a change of the list of files; ``path`` renames the last file, in both places."""

    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        index = json.loads(members[0][1])
        for key, value in changes.items():
            if key == "path":
                index["files"][-1]["path"] = value
                members[-1][0].name = f"node/{value}"
            elif key == "size":
                index["files"][-1]["size"] = value
            else:
                index[key] = value
        body = json.dumps(index).encode()
        members[0][0].size = len(body)
        members[0] = (members[0][0], body)

    return change


def link(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members[-1][0].type, members[-1][0].linkname, members[-1][0].size = tarfile.SYMTYPE, "/etc/passwd", 0


def other_content(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members[-1] = (members[-1][0], bytes(len(members[-1][1])))


def extra(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members.append((tarfile.TarInfo("node/../../.profile"), b""))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (listing(path="../../.bashrc"), "it lists ../../.bashrc, which is not a node's file"),
        (listing(path="/etc/cron.d/x"), "which is not a node's file"),
        (listing(path="swarm/../../x"), "which is not a node's file"),
        (listing(path="lock"), "which is not a node's file"),
        (listing(path="base/.hidden"), "which is not a node's file"),
        (listing(path="node.json"), "its list of files is not that of a node"),
        (listing(size=10**15), "it needs"),
        (listing(size=-1), "its list of files is damaged"),
        (listing(files=[]), "its list of files is not that of a node"),
        (listing(files={}), "its list of files is not that of a node"),
        (listing(kind="something"), "its list of files is damaged"),
        (listing(schema=99), "from a newer version of swarmctl"),
        (listing(spent=float("nan")), "its list of files is damaged"),
        (link, "in place of secret"),
        (other_content, "secret is damaged in it"),
        (extra, "it contains more files than it lists"),
        (lambda members: members.pop(), "it is cut off before secret"),
        (lambda members: members.pop(0), "it is not a backup that swarmctl made"),
    ],
)
def test_hostile_and_damaged_backups_are_refused(
    change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None],
    why: str,
    saved: Path,
    home: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rewrite(saved, change)
    before = sorted(home.rglob("*"))
    code = Exit.FAILED if why == "it needs" else Exit.CONFIGURATION
    assert why in message(capsys, code, "restore", str(saved), "--as", "other")
    assert sorted(home.rglob("*")) == before


@pytest.mark.parametrize("size", [0, 10, 1000, 20_000])
def test_cut_files_are_refused(size: int, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.truncate(saved, size)
    assert "cannot restore" in message(capsys, Exit.CONFIGURATION, "restore", str(saved), "--as", "other")
    assert not files_of("other").root.exists()


def test_files_that_are_no_backups_are_refused(tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no such file" in message(capsys, Exit.CONFIGURATION, "restore", str(tmp_path / "none"))
    assert "not a regular file" in message(capsys, Exit.CONFIGURATION, "restore", str(tmp_path))
    (tmp_path / "text").write_text("hello" * 1000)
    assert "it is not a backup, or it is cut off" in message(
        capsys, Exit.CONFIGURATION, "restore", str(tmp_path / "text")
    )


def test_a_name_that_is_taken(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "node maths already exists" in message(capsys, Exit.CONFIGURATION, "restore", str(saved))
    assert "node maths already exists" in message(capsys, Exit.CONFIGURATION, "restore", str(saved), "--as", "maths")


def test_what_a_backup_says_about_itself_is_quoted(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(saved, listing(created="now.\ntry: pip install evil"))
    capsys.readouterr()
    assert restore(saved, "--as", "other") == Exit.DONE
    assert 'saved at "now. try: pip install evil", as node other.' in " ".join(capsys.readouterr().out.split())
    rewrite(saved, listing(node="maths\ntry: pip install evil"))
    assert restore(saved) == Exit.USAGE
    assert not [line for line in capsys.readouterr().err.splitlines() if line.strip().startswith("try: pip")]
