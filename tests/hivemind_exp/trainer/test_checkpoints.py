"""Checkpoints are whole or absent. A damaged one costs a few rounds, not the node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from hivemind_exp.errors import CheckpointError, DiskFull
from hivemind_exp.events import discard
from hivemind_exp.stop import StopFlag, StopRequested
from hivemind_exp.trainer.checkpoints import Checkpoint, CheckpointStore, find
from hivemind_exp.trainer.optimizer_state import save_state
from tests.support.full_disk import mounted_disk
from tests.support.recorded_events import Events


def write(text: str) -> Callable[[Path], None]:
    def fill(directory: Path) -> None:
        (directory / "model").mkdir()
        (directory / "model" / "weights").write_text(text)
        (directory / "state").write_text(text[::-1])

    return fill


def make_store(root: Path, keep: int = 3) -> CheckpointStore:
    return CheckpointStore(root, keep, discard)


def test_a_new_store_finds_the_newest_checkpoint(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    for step in (5, 10):
        store.save(step, step * 2, write(str(step)))
    found = make_store(tmp_path).latest()
    assert found is not None
    assert (found.step, found.round) == (10, 20)
    assert (found.path / "model" / "weights").read_text() == "10"


def test_only_the_latest_checkpoints_are_kept(tmp_path: Path) -> None:
    store = make_store(tmp_path, keep=2)
    store.save(1, 1, write("x"))
    assert store.oldest_step() == 0  # its steps can be replayed from the model before training
    for step in range(2, 5):
        store.save(step, step, write("x"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000003", "00000004"]
    assert store.oldest_step() == 3


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "seal", "unseal", "step", "round", "nested"])
def test_a_damaged_checkpoint_is_set_aside_and_the_previous_one_used(tmp_path: Path, harm: str) -> None:
    store = make_store(tmp_path)
    store.save(1, 1, write("old" * 100))
    newest = store.save(2, 2, write("new" * 100)).path
    weights, seal = newest / "model" / "weights", newest / "checkpoint.json"
    match harm:
        case "flip":
            weights.write_text("nex" + "new" * 99)
        case "truncate":
            weights.write_text("new")
        case "delete":
            weights.unlink()
        case "seal":
            seal.write_text(seal.read_text()[:40])
        case "step":  # replaying from another step would train other weights
            seal.write_text(seal.read_text().replace('"step": 2', '"step": 3'))
        case "round":
            seal.write_text(seal.read_text().replace('"round": 2', '"round": "2"'))
        case "nested":
            seal.write_text("[" * 100_000)
        case "unseal":
            seal.unlink()
    recorded = Events()
    store = CheckpointStore(tmp_path, 3, recorded)
    found = store.latest()
    assert found is not None
    assert found.step == 1
    assert [path.name for path in store.damaged()] == ["damaged-00000002"]
    assert [(event, fields["code"]) for event, fields in recorded.all] == [("warning", "checkpoint_damaged")]
    assert store.save(2, 2, write("again")).step == 2


def test_latest_returns_none_if_all_are_damaged(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    (store.save(1, 1, write("x")).path / "state").unlink()
    assert store.latest() is None
    assert store.damaged()


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".partial-00000007" / "model").mkdir(parents=True)
    assert make_store(tmp_path).latest() is None
    assert list(tmp_path.iterdir()) == []


def test_a_failing_writer_leaves_nothing(tmp_path: Path) -> None:
    store = make_store(tmp_path)

    def fail(directory: Path) -> None:
        (directory / "half").write_text("x")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        store.save(1, 1, fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pieces", [0, 1, 2])
def test_a_checkpoint_can_be_abandoned_between_its_pieces(tmp_path: Path, pieces: int) -> None:
    store = make_store(tmp_path)
    store.save(1, 1, write("old"))
    left = iter(range(pieces))

    def check() -> None:
        if next(left, None) is None:
            raise StopRequested

    def two_files(directory: Path) -> None:
        write("new")(directory)
        (directory / "second").write_text("x")

    with pytest.raises(StopRequested):
        store.save(2, 2, two_files, check=check)
    assert [path.name for path in tmp_path.iterdir()] == ["00000001"]
    assert store.save(2, 2, two_files).path.name == "00000002"


def test_an_optimizers_state_can_be_abandoned_while_it_is_written(tmp_path: Path) -> None:
    weights = torch.nn.Parameter(torch.ones(4, 300_000))
    optimizer = torch.optim.AdamW([weights])
    weights.grad = torch.ones_like(weights)
    optimizer.step()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise StopRequested

    save_state(tmp_path / "whole", optimizer.state_dict(), schedule)
    with pytest.raises(StopRequested):
        save_state(tmp_path / "half", optimizer.state_dict(), schedule, check)
    assert (tmp_path / "half").stat().st_size < (tmp_path / "whole").stat().st_size


def test_a_stop_allows_a_checkpoint_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("hivemind_exp.stop.time.monotonic", lambda: now)
    stop = StopFlag()
    check = stop.check_later(3.0)
    check()
    now += 60.0
    stop.set()
    check()
    now += 2.9
    check()
    now += 0.2
    with pytest.raises(StopRequested):
        check()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path, "256k") as place:
        yield place


def test_a_full_disk_is_reported_and_the_previous_checkpoint_kept(small_disk: Path) -> None:
    store = make_store(small_disk)
    store.save(1, 1, write("x"))
    with pytest.raises(DiskFull, match="no space left") as caught:
        store.save(2, 2, write("y" * 1_000_000))
    assert "df -h" in (caught.value.next or "")
    found = make_store(small_disk).latest()
    assert found is not None
    assert found.step == 1
    assert [path.name for path in small_disk.iterdir()] == ["00000001"]


def test_find_reads_the_newest_intact_checkpoint_or_the_given_one_and_changes_nothing(tmp_path: Path) -> None:
    assert find(tmp_path / "nothing") is None
    assert find(tmp_path) is None
    store = make_store(tmp_path)
    for step in (1, 2, 3):
        store.save(step, step * 10, lambda directory: (directory / "weights").write_text("w"))
    (tmp_path / ".partial-00000004").mkdir()
    assert find(tmp_path) == Checkpoint(tmp_path / "00000003", 3, 30)
    assert find(tmp_path, 2) == Checkpoint(tmp_path / "00000002", 2, 20)
    (tmp_path / "00000003" / "weights").write_text("damaged")
    assert find(tmp_path) == Checkpoint(tmp_path / "00000002", 2, 20)
    with pytest.raises(CheckpointError, match="checkpoint 3 is damaged: weights has changed"):
        find(tmp_path, 3)
    with pytest.raises(CheckpointError, match="no checkpoint 9; there are 1, 2, 3"):
        find(tmp_path, 9)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".partial-00000004", "00000001", "00000002", "00000003"]
