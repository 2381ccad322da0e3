"""A cap covers a node's whole life, even if its ledger is deleted, emptied or damaged."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from hivemind_exp.config import Config
from hivemind_exp.errors import LimitReached, NodeError
from hivemind_exp.events import discard
from hivemind_exp.node_files import SEAL, NodeFiles
from hivemind_exp.node_id import NodeId
from hivemind_exp.offload.build import make_offload
from hivemind_exp.offload.spending import saved_total, spent_so_far
from hivemind_exp.secrets import Secrets
from hivemind_exp.stop import StopFlag
from hivemind_exp.trainer.checkpoints import CheckpointStore
from tests.support.command_line import ROOT
from tests.support.engine_rig import PRICE_IN, PRICE_OUT, order
from tests.support.fake_api.server import ApiServer, api_server
from tests.support.nodes import make_config
from tests.support.recorded_events import Events

CAP = 0.02

pytestmark = pytest.mark.slow


def configure(server: ApiServer) -> Config:
    return make_config(
        generation={"max_completion_tokens": 64},
        offload={
            "provider": "box",
            "limits": {"usd": CAP},
            "prices": {"box": {"input": PRICE_IN, "output": PRICE_OUT}},
        },
        providers={"box": {"base_url": server.base_url, "model": "test-model"}},
    )


def spend(server: ApiServer, files: NodeFiles, orders: int, first: int = 0) -> Events:
    """Generate for ``orders`` prompts as a node would; return its events. Raises ``LimitReached``."""
    events = Events()
    offload = make_offload(configure(server), files, Secrets({}), events, StopFlag())
    try:
        offload.submit([order(number) for number in range(first, first + orders)])
        offload.wait(0)
    finally:
        offload.close()
    return events


def lose(files: NodeFiles, how: str) -> None:
    for path in files.root.glob("ledger.sqlite*"):
        path.unlink()
    if how == "emptied":
        files.ledger.touch()
    if how == "everything but the journal":
        files.spent.unlink()


@pytest.mark.parametrize("how", ["deleted", "emptied", "everything but the journal"])
def test_a_lost_ledger_does_not_reset_the_cap(tmp_path: Path, how: str) -> None:
    files = NodeFiles(tmp_path)
    with api_server() as server:
        spend(server, files, 10)
        before = spent_so_far(files)
        lose(files, how)
        probe = 30 * PRICE_IN / 1e6 + 16 * PRICE_OUT / 1e6  # not in the journal
        assert before - probe <= spent_so_far(files) <= before + 1e-9
        events = spend(server, files, 1, first=10)
        (warning,) = events.of("warning")
        assert warning["code"] == "ledger_restored"
        with pytest.raises(LimitReached):
            spend(server, files, 200, first=11)
        assert before < server.usd(PRICE_IN, PRICE_OUT) <= CAP + (probe if "journal" in how else 0.0)


def test_a_checkpoint_alone_tells_what_was_spent_before_it(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    with api_server() as server:
        spend(server, files, 10)
        before = spent_so_far(files)
        store = CheckpointStore(files.checkpoints, 2, discard, spent=partial(saved_total, files))
        store.save(3, 3, lambda directory: (directory / "w").touch())
        for path in (*files.root.glob("*.sqlite*"), files.spent, files.events):
            path.unlink(missing_ok=True)
        assert spent_so_far(files) == pytest.approx(before)
        (warning,) = spend(server, files, 1, first=10).of("warning")
        assert warning["code"] == "ledger_restored"
        with pytest.raises(LimitReached):
            spend(server, files, 200, first=11)
        assert before < server.usd(PRICE_IN, PRICE_OUT) <= CAP


@pytest.mark.parametrize(
    ("node", "writer", "counts"),
    [(None, None, True), ("a", "a", True), ("a", "b", False), ("a", None, False), (None, "b", False)],
)
def test_only_the_nodes_own_checkpoints_count(
    tmp_path: Path, node: str | None, writer: str | None, counts: bool
) -> None:
    """A fork begins with a checkpoint that another node has paid for."""
    files = NodeFiles(tmp_path)
    if node is not None:
        files.identity.write_text(json.dumps({"id": node, "ancestors": ["b"]}))
    owner = None if writer is None else NodeId(writer, "x")
    store = CheckpointStore(files.checkpoints, 2, discard, owner=owner, spent=lambda: 1.25)
    store.save(3, 3, lambda directory: (directory / "w").touch())
    assert spent_so_far(files) == (1.25 if counts else 0.0)


@pytest.mark.parametrize("text", ["", "[]", '{"usd": "7"}', '{"usd": NaN}', '{"usd": true}', '{"usd": null}'])
def test_a_damaged_seal_has_no_total(tmp_path: Path, text: str) -> None:
    files = NodeFiles(tmp_path)
    (files.checkpoints / "00000003").mkdir(parents=True)
    (files.checkpoints / "00000003" / SEAL).write_text(text)
    assert spent_so_far(files) == 0.0


def test_a_damaged_ledger_is_refused_and_can_be_moved_aside(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    with api_server() as server:
        spend(server, files, 10)
        before = spent_so_far(files)
        files.ledger.write_bytes(b"not a database, but long enough to be read as one" * 100)
        for attempt in (lambda: spent_so_far(files), lambda: spend(server, files, 1)):
            with pytest.raises(NodeError, match=r"the ledger .* is damaged") as raised:
                attempt()
        subprocess.run(raised.value.next or "false", shell=True, check=True)
        assert not files.ledger.exists()
        assert spent_so_far(files) == pytest.approx(before)
        spend(server, files, 1, first=10)
        assert spent_so_far(files) > before


def test_an_intact_ledger_needs_no_other_record(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    with api_server() as server:
        spend(server, files, 3)
        files.spent.write_text("damaged")
        events = spend(server, files, 3, first=3)
        assert events.of("warning") == []
        assert spent_so_far(files) == pytest.approx(server.usd(PRICE_IN, PRICE_OUT))


@pytest.mark.parametrize("usd", ["NaN", "Infinity", f"1{'0' * 400}", '"7"', "null", "true"])
def test_a_damaged_total_is_ignored(tmp_path: Path, usd: str) -> None:
    files = NodeFiles(tmp_path)
    files.spent.write_text(f'{{"usd": {usd}}}')
    files.events.write_text(f'{{"usd_total": {usd}}}\n{{"usd_total": 0.5, "usd_reserved": 0.25}}\n')
    assert spent_so_far(files) == 0.75  # what was in flight counts as spent


def test_a_missing_row_is_noticed(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    with api_server() as server:
        spend(server, files, 3)
        before = spent_so_far(files)
        with sqlite3.connect(files.ledger) as db:
            db.execute("DELETE FROM requests WHERE id > 2")
        db.close()
        assert spent_so_far(files) == pytest.approx(before)


def test_a_new_node_has_spent_nothing(tmp_path: Path) -> None:
    assert spent_so_far(NodeFiles(tmp_path)) == 0.0


SPENDER = """
import os, signal, sys
from functools import partial
from pathlib import Path
from hivemind_exp.config import LimitsConfig
from hivemind_exp.events import discard
from hivemind_exp.node_files import SEAL, NodeFiles
from hivemind_exp.node_id import NodeId
from hivemind_exp.offload.ledger import Ledger, RequestKey
from hivemind_exp.offload.prices import Usage
from hivemind_exp.offload.spending import write_total
files = NodeFiles(Path(sys.argv[1]))
ledger = Ledger(files.ledger, LimitsConfig(usd=5.0), partial(write_total, files.spent))
for number in range(100):
    held = ledger.reserve(RequestKey("box", "m", 0, "answer", str(number), 1), 0.002)
    ledger.settle(held, Usage(100, 50), 0.001)
for number in range(8):
    ledger.reserve(RequestKey("box", "m", 1, "answer", str(number), 1), 0.002)
os.kill(os.getpid(), signal.SIGKILL)
"""
SPENT = 100 * 0.001 + 8 * 0.002


def cut(part: float) -> Callable[[Path, Path], object]:
    return lambda _, wal: os.truncate(wal, int(part * wal.stat().st_size))


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "nothing": lambda _ledger, _wal: None,
    "half of the WAL": cut(0.5),
    "the last requests": cut(0.97),
    "an empty WAL": cut(0.0),
    "no WAL": lambda _, wal: wal.unlink(),
    "a WAL of zeros": lambda _, wal: wal.write_bytes(bytes(wal.stat().st_size)),
    "an empty ledger": lambda ledger, wal: (ledger.write_bytes(b""), wal.write_bytes(b"")),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_no_damage_after_a_crash_lowers_the_total(tmp_path: Path, what: str) -> None:
    """SQLite takes a WAL that was cut for one whose last writes were not finished, so it reports no damage."""
    files = NodeFiles(tmp_path)
    killed = subprocess.run([sys.executable, "-c", SPENDER, str(tmp_path)], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    DAMAGE[what](files.ledger, files.ledger.with_name(f"{files.ledger.name}-wal"))
    assert spent_so_far(files) == pytest.approx(SPENT)
    with api_server() as server:
        offload = make_offload(configure(server), files, Secrets({}), events := Events(), StopFlag())
        try:
            assert offload.ledger.spent == pytest.approx(SPENT)
        finally:
            offload.close()
    codes = [warning["code"] for warning in events.of("warning")]
    assert ("ledger_restored" in codes) == (what != "nothing")
    assert spent_so_far(files) == pytest.approx(SPENT)


def test_the_journal_and_the_events_count_if_spent_json_is_lost_with_a_part_of_the_ledger(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    with api_server() as server:
        spend(server, files, 10)
        before = spent_so_far(files)
    with sqlite3.connect(files.ledger) as db:
        db.execute("DELETE FROM requests WHERE id > 3")
    db.close()
    files.spent.unlink()
    files.events.write_text(f'{{"usd_total": {before}, "usd_reserved": 1.0}}\n')
    assert spent_so_far(files) == pytest.approx(before)
