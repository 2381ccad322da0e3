"""A fresh node's last run is deleted once the new one has started, and not before."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.node_files import NodeFiles
from swarmctl.nodes import start_over

STARTED = '{"event": "start"}\n'
LAST_RUN = {
    "checkpoints/3/model": "weights",
    "config.json": "last command",
    "events.jsonl": STARTED,
    "journal.sqlite": "completions",
    "node.json": "last settings",
    "run.json": "last run",
    "trainer.log": "last log",
}
REFUSED = {
    "base/model": "warmed up",
    "config.json": "refused command",
    "events.jsonl": '{"event": "error"}\n',
    "journal.sqlite-wal": "of another journal",
    "node.json": "refused settings",
    "run.json": "refused run",
    "trainer.log": "refused log",
}
LATEST = {key: REFUSED[key] for key in ("config.json", "trainer.log")}
KEPT = {"identity.key": "key", "ledger.sqlite": "spent", "ledger.sqlite-wal": "spent, too", "lock": ""}


def write(files: NodeFiles, contents: dict[str, str]) -> None:
    for name, text in contents.items():
        path = files.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def contents(files: NodeFiles) -> dict[str, str]:
    return {str(path.relative_to(files.root)): path.read_text() for path in files.root.rglob("*") if path.is_file()}


@pytest.fixture
def files(tmp_path: Path) -> NodeFiles:
    """Return the files of a node that has run once."""
    made = NodeFiles(tmp_path / "node")
    write(made, LAST_RUN | KEPT)
    return made


def test_the_last_run_is_put_back_if_the_new_one_did_not_start(files: NodeFiles) -> None:
    start_over.set_aside(files)
    write(files, REFUSED)
    start_over.finish(files)
    assert contents(files) == LAST_RUN | KEPT | LATEST


@pytest.mark.parametrize("end", [start_over.finish, start_over.discard])
def test_the_last_run_is_deleted_once_the_new_one_has_started(
    files: NodeFiles, end: Callable[[NodeFiles], None]
) -> None:
    start_over.set_aside(files)
    write(files, REFUSED | {"events.jsonl": STARTED})
    end(files)
    assert contents(files) == REFUSED | KEPT | {"events.jsonl": STARTED}


class Killed(BaseException):
    """Raised in place of ``kill -9``."""


def killed_after(count: int, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> bool:
    """Run ``act``, but die at its change number ``count``; return whether it died."""
    left = count
    changes = ((Path, "mkdir"), (Path, "rename"), (Path, "replace"), (Path, "unlink"), (shutil, "rmtree"))

    def counted(change: Any) -> Any:
        def changed(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            return change(*arguments, **options)

        return changed

    with monkeypatch.context() as patch:
        for owner, name in changes:
            patch.setattr(owner, name, counted(getattr(owner, name)))
        try:
            act()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("count", range(20))
def test_nothing_is_lost_if_setting_aside_is_killed(
    files: NodeFiles, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = killed_after(count, monkeypatch, lambda: start_over.set_aside(files))
    assert died == (count < 8)  # two calls for the directory, and one for each of the six files moved
    start_over.finish(files)
    assert contents(files) == LAST_RUN | KEPT


@pytest.mark.parametrize("count", range(20))
def test_nothing_is_lost_if_putting_back_is_killed(
    files: NodeFiles, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_over.set_aside(files)
    write(files, REFUSED)
    died = killed_after(count, monkeypatch, lambda: start_over.finish(files))
    assert died == (count < 11)
    start_over.finish(files)
    assert contents(files) == LAST_RUN | KEPT | LATEST
