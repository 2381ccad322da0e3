"""``swarmctl backup`` and ``restore``: what a backup contains, and what a restored node is."""

from __future__ import annotations

import json
import stat
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from hivemind_exp.config import LimitsConfig
from hivemind_exp.errors import IdentityProblem
from hivemind_exp.event_files import older_parts
from hivemind_exp.event_log import EventLog
from hivemind_exp.events import NoteEvent, StartEvent, discard
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Manifest
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.ledger import Ledger, RequestKey
from hivemind_exp.offload.prices import Usage
from hivemind_exp.offload.spending import spent_so_far
from hivemind_exp.run_record import RunRecord, write_record
from hivemind_exp.swarm.identity import Identity, claim
from hivemind_exp.swarm.incarnation import IncarnationFile
from hivemind_exp.trainer.checkpoints import CheckpointStore
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.nodes.archive import INDEX
from swarmctl.nodes.lookup import files_of
from swarmctl.storage.event_log import all_of
from swarmctl.storage.json_file import read_json, write_json
from tests.support.backups import message, node, one_machine, restore, saved
from tests.support.journals import SWARM, mixed_node
from tests.support.nodes import make_config, run

__all__ = ["node", "one_machine", "saved"]


def test_a_backup_lists_what_it_contains(node: NodeFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = tmp_path / "maths.backup"
    assert cli.run(["backup", "maths", str(saved)]) == Exit.DONE
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    with tarfile.open(saved) as archive:
        names = archive.getnames()
    assert names[0] == INDEX
    assert "node/checkpoints/00000004/w" in names
    assert not any("lock" in name or "trainer.log" in name or "-wal" in name for name in names)
    said = capsys.readouterr().out
    assert "Saved node maths (after round 4)" in said
    assert "newest checkpoint, settings, journal, ledger" in said
    assert " and choice of held-out questions, but no API keys." in said


def test_json_names_the_files_that_are_needed_and_not_included(
    node: NodeFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = read_json(node.config)
    assert last is not None
    last["config"]["tasks"] = [{"name": "jsonl", "path": "/questions.jsonl"}]
    last["config"]["model"] = {"name": "org/model", "lora": {"rank": 8}}
    write_json(node.config, last)
    assert cli.run(["backup", "maths", str(tmp_path / "out"), "--json"]) == Exit.DONE
    found = json.loads(capsys.readouterr().out)
    assert found["checkpoint"] == {"step": 4, "round": 4}
    assert found["not_included"] == ["/questions.jsonl", "model org/model"]
    assert found["usd"] == pytest.approx(0.013)


def test_another_backup_is_not_overwritten(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = saved.read_bytes()
    assert "already exists" in message(capsys, Exit.CONFIGURATION, "backup", "maths", str(saved))
    assert saved.read_bytes() == before
    assert cli.run(["backup", "maths", str(saved), "--yes"]) == Exit.DONE


def test_a_restored_node_has_the_same_files(saved: Path, node: NodeFiles, home: Path) -> None:
    before = spent_so_far(node)
    node.root.rename(home / "old")
    assert restore(saved) == Exit.DONE
    assert node.secret() == NodeFiles(home / "old").secret()
    assert (node.checkpoints / "00000004" / "w").read_bytes() == b"w" * 99
    assert stat.S_IMODE(node.root.stat().st_mode) == 0o700
    assert spent_so_far(node) == pytest.approx(before)
    with closing(Journal(node.journal, SWARM)) as journal:
        assert [each.step for each in journal.manifests(4)] == [4, 5]
    made = read_json(node.identity)
    assert made is not None
    assert (made["name"], made["restored"]["node"]) == ("maths", "maths")


def test_a_journal_that_is_being_written_is_copied_whole(node: NodeFiles, tmp_path: Path) -> None:
    with closing(Journal(node.journal, SWARM)) as journal:  # its newest steps are in the -wal file
        journal.commit(Manifest(6, 6, 0, 1, ()))
        assert cli.run(["backup", "maths", str(tmp_path / "b")]) == Exit.DONE
    assert restore(tmp_path / "b", "--as", "other") == Exit.DONE
    with closing(Journal(files_of("other").journal, SWARM)) as journal:
        assert [each.step for each in journal.manifests(4)] == [4, 5, 6]


def test_a_backup_has_all_parts_of_the_log(node: NodeFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = EventLog(node.events, most=8 * 300)
    for number in range(6):
        log(NoteEvent(code=str(number), message="x" * 200))
    log.close()
    with node.events.open("ab") as file:
        file.write(b'{"t": 1, "eve')
    parts = {path.name: path.read_bytes() for path in older_parts(node.events)}
    assert len(parts) > 3
    saved = tmp_path / "maths.backup"
    assert cli.run(["backup", "maths", str(saved)]) == Exit.DONE
    assert cli.run(["restore", str(saved), "--as", "again"]) == Exit.DONE
    restored = files_of("again")
    assert {path.name: path.read_bytes() for path in older_parts(restored.events)} == parts
    assert [event["code"] for event in all_of(restored.events, "note")] == [
        event["code"] for event in all_of(node.events, "note")
    ]
    assert restored.events.read_bytes().endswith(b"}\n")


@pytest.mark.parametrize(("end", "state"), [(None, "stopped"), ("signal", "stopped"), ("done", "done")])
def test_a_restored_node_is_stopped_unless_it_had_finished(
    end: str | None, state: str, node: NodeFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = EventLog(node.events)
    log(StartEvent(node="maths", tasks=["spell_backward"], seed=0, rounds=5, groups=2, group_size=4))
    log.close()
    stop = end and {"t": 1.0, "event": "stop", "reason": end, "next": None, "round": 5, "steps": 5, "checkpoint": None}
    write_record(node.run, RunRecord(begun=True, stop=stop or None))
    assert cli.run(["backup", "maths", str(tmp_path / "maths.backup")]) == Exit.DONE
    assert restore(tmp_path / "maths.backup", "--as", "again") == Exit.DONE
    more = " --rounds 10" if end == "done" else ""
    assert capsys.readouterr().out.endswith(f"run --node again{more}\n")
    assert cli.run(["status", "again", "--json"]) == Exit.DONE
    assert json.loads(capsys.readouterr().out)["nodes"][0]["state"] == state


def test_a_checkpoint_that_is_deleted_meanwhile_is_replaced_by_the_newer_one(
    node: NodeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from swarmctl.nodes import backup

    copied: list[str] = []
    copy = backup._copy_database

    def deleting(path: Path, target: Path) -> None:
        if not copied:  # the node saves a checkpoint after its steps, and deletes what it contains
            CheckpointStore(node.checkpoints, 1, discard).save(6, 6, lambda directory: (directory / "w").touch())
            with closing(Journal(node.journal, SWARM)) as journal:
                journal.forget_manifests(6)
        copied.append(path.name)
        copy(path, target)

    monkeypatch.setattr(backup, "_copy_database", deleting)
    assert cli.run(["backup", "maths", str(tmp_path / "b")]) == Exit.DONE
    assert copied == ["journal.sqlite", "journal.sqlite", "ledger.sqlite"]
    assert restore(tmp_path / "b", "--as", "other") == Exit.DONE
    assert [path.name for path in files_of("other").checkpoints.iterdir()] == ["00000006"]


# --- identity


@pytest.fixture
def member(node: NodeFiles) -> NodeFiles:
    """The node is in a swarm."""
    Identity.create(node.key)
    node.charter.write_bytes(b"charter")
    node.consent.write_text("{}")
    return node


def test_the_same_node_has_the_same_identity_and_outranks_the_old_one(
    member: NodeFiles, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = Identity.load(member.key).peer_id
    before = IncarnationFile(member.incarnation, peer).start()
    assert cli.run(["backup", "maths", str(tmp_path / "b")]) == Exit.DONE
    assert "can impersonate" in capsys.readouterr().out
    cli.run(["rename", "maths", "old"])
    old = files_of("old")
    later = IncarnationFile(old.incarnation, peer).start()
    assert restore(tmp_path / "b") == Exit.DONE
    assert Identity.load(member.key).peer_id == peer
    assert before < later < IncarnationFile(member.incarnation, peer).start()
    # On this machine, the old one is locked out at once.
    with pytest.raises(IdentityProblem, match="a copy of node old was restored from a backup"):
        with claim(old.claims, peer, "old", IncarnationFile(old.incarnation, peer).read()[0].restored):
            pass


def test_the_same_node_is_not_restored_while_the_old_one_runs(
    member: NodeFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peer = Identity.load(member.key).peer_id
    assert cli.run(["backup", "maths", str(tmp_path / "b")]) == Exit.DONE
    cli.run(["rename", "maths", "old"])
    with claim(member.claims, peer, "old"):
        assert "node old (pid" in message(capsys, Exit.CONFIGURATION, "restore", str(tmp_path / "b"))
        assert not member.root.exists()


def test_another_node_has_another_identity_and_seed_and_asks_before_it_spends(
    member: NodeFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["backup", "maths", str(tmp_path / "b")]) == Exit.DONE
    assert restore(tmp_path / "b", "--as", "algebra") == Exit.DONE
    other = files_of("algebra")
    assert Identity.load(other.key).peer_id != Identity.load(member.key).peer_id
    assert not other.consent.exists()
    made, last = read_json(other.identity), read_json(other.config)
    assert made is not None
    assert last is not None
    seed = made["seed"]
    assert seed != 0
    assert last["config"]["node"] | {"fresh": False} == {"name": "algebra", "seed": seed, "fresh": False}
    assert last["overrides"] == {"node.seed": seed}


def test_another_node_that_would_push_to_the_same_repository_is_reported(
    node: NodeFiles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = read_json(node.config)
    assert last is not None
    last["config"]["hub"]["repo"] = "me/maths"
    write_json(node.config, last)
    assert cli.run(["backup", "maths", str(tmp_path / "b")]) == Exit.DONE
    assert restore(tmp_path / "b", "--as", "other") == Exit.DONE
    assert "warning: both nodes push to me/maths; give the new one another hub.repo." in capsys.readouterr().err


# --- spending


def spend(files: NodeFiles, usd: float) -> None:
    with closing(Ledger(files.ledger, LimitsConfig())) as ledger:
        reservation = ledger.reserve(RequestKey("openai", "m", 0, "answer", "q", 1), usd)
        ledger.settle(reservation, Usage(1, 1), usd)


@pytest.mark.parametrize("deleted", [False, True])
def test_a_restore_never_lowers_what_was_spent(
    deleted: bool, saved: Path, node: NodeFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    spend(node, 2.0)
    cli.run(["rm", "maths", "--yes"] if deleted else ["rename", "maths", "old"])
    capsys.readouterr()
    assert restore(saved) == Exit.DONE
    assert spent_so_far(node) == pytest.approx(2.013)
    said = capsys.readouterr()
    assert "Its cap counts the 2.01 USD" in said.out
    assert "the node has spent 0.013 USD, but this machine knows of 2.01 USD" in said.err
    with closing(Ledger(node.ledger, LimitsConfig())) as ledger:  # as the node does when it starts
        ledger.restore(spent_so_far(node))
        assert ledger.spent == pytest.approx(2.013)


def test_the_total_of_an_unrelated_node_does_not_count(saved: Path, node: NodeFiles) -> None:
    cli.run(["rename", "maths", "old"])
    mixed_node("unrelated")
    spend(files_of("unrelated"), 3.0)
    assert restore(saved) == Exit.DONE
    assert spent_so_far(node) == pytest.approx(0.013)


# --- the real thing


@pytest.mark.slow
def test_a_restored_node_goes_on_bit_by_bit_as_the_original(home: Path, tmp_path: Path) -> None:
    config = make_config(game={"rounds": 2}, checkpoint={"every": 10}, eval={"every": 0})
    files = files_of("test")
    run(config, files.root)
    files.secret()
    write_json(files.identity, {"schema": 1, "name": "test", "created": "now"})
    write_json(files.config, {"schema": 1, "overrides": {}, "config": config.model_dump(mode="json")})
    assert cli.run(["backup", "test", str(tmp_path / "b")]) == Exit.DONE
    assert restore(tmp_path / "b", "--as", "copy") == Exit.DONE
    longer = config.model_copy(update={"game": config.game.model_copy(update={"rounds": 4})})
    weights = []
    for name in ("test", "copy"):
        run(longer, files_of(name).root)
        weights.append((files_of(name).checkpoints / "00000004" / "model" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]
