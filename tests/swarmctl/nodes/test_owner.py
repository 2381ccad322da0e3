"""Checkpoints and journals of another node are refused; a node's own are recognized wherever they are moved."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import Config
from hivemind_exp.errors import NodeConflict
from hivemind_exp.journal.journal import Journal
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.node_id import NodeId, node_id
from hivemind_exp.offload.spending import spent_so_far
from hivemind_exp.trainer.checkpoints import SEAL
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.nodes.directory import opened
from swarmctl.nodes.lookup import files_of
from swarmctl.nodes.start_over import finish, set_aside
from swarmctl.storage.json_file import read_json, write_json
from tests.support.nodes import make_config, run

pytestmark = pytest.mark.slow


def open_node(name: str, **sections: Any) -> NodeFiles:
    """Create or open a node as a run does; return its files."""
    config = make_config(**sections)
    config = config.model_copy(update={"node": config.node.model_copy(update={"name": name})})
    with opened(config, lambda other: f"swarmctl run --node {other}") as node:
        write_json(node.files.config, {"schema": 1, "config": config.model_dump(mode="json")})
        return node.files


def trained(name: str, rounds: int = 4) -> NodeFiles:
    files = open_node(name)
    run(make_config(game={"rounds": rounds}), files.root)
    return files


def ids(files: NodeFiles) -> set[str]:
    """Return the ids that a node's files name."""
    seals = [json.loads((path / SEAL).read_text())["node"]["id"] for path in files.checkpoints.glob("[0-9]*")]
    with closing(sqlite3.connect(files.journal)) as db:
        return {*seals, *(each for (each,) in db.execute("SELECT id FROM owner"))}


def resumes(files: NodeFiles, rounds: int = 6) -> bool:
    """Whether a node goes on, from its checkpoint."""
    return run(make_config(game={"rounds": rounds}), files.root).step == rounds


def test_a_checkpoint_of_another_node_is_refused_until_it_is_moved_aside() -> None:
    mine, other = trained("maths", rounds=2), trained("tea")
    copied = mine.checkpoints / "00000004"
    shutil.copytree(other.checkpoints / copied.name, copied)
    with pytest.raises(NodeConflict) as caught:
        resumes(mine)
    assert str(caught.value).startswith(f"{copied} is a checkpoint of node tea, not of node maths. ")
    assert cli.run(["sample", "maths", "--checkpoint", "4"]) == Exit.CONFIGURATION
    subprocess.run(caught.value.next or "false", shell=True, check=True)
    assert resumes(mine)
    assert (mine.root / "other-node" / copied.name / SEAL).exists()


def test_a_journal_of_another_node_is_refused_until_it_is_moved_aside() -> None:
    mine, other = trained("maths", rounds=2), trained("tea")
    for path in mine.root.glob("journal.sqlite*"):
        path.unlink()
    for path in other.root.glob("journal.sqlite*"):
        shutil.copy2(path, mine.root)
    with pytest.raises(NodeConflict) as caught:
        resumes(mine)
    assert str(caught.value).startswith(f"{mine.journal} is the journal of node tea, not of node maths. ")
    subprocess.run(caught.value.next or "false", shell=True, check=True)
    assert resumes(mine)
    assert ids(mine) == {node_id(mine).id}  # type: ignore[union-attr]


def renamed(files: NodeFiles, _tmp: Path) -> NodeFiles:
    assert cli.run(["rename", files.root.name, "algebra"]) == Exit.DONE
    return files_of("algebra")


def moved(files: NodeFiles, _tmp: Path) -> NodeFiles:
    files.root.rename(files_of("elsewhere").root)
    return files_of("elsewhere")


def copied(files: NodeFiles, _tmp: Path) -> NodeFiles:
    shutil.copytree(files.root, files_of("copy").root)
    return files_of("copy")


def restored(files: NodeFiles, tmp: Path) -> NodeFiles:
    assert cli.run(["backup", files.root.name, str(tmp / "saved")]) == Exit.DONE
    shutil.rmtree(files.root)
    assert cli.run(["restore", str(tmp / "saved")]) == Exit.DONE
    return files


def restored_as_another(files: NodeFiles, tmp: Path) -> NodeFiles:
    assert cli.run(["backup", files.root.name, str(tmp / "saved")]) == Exit.DONE
    assert cli.run(["restore", str(tmp / "saved"), "--as", "again"]) == Exit.DONE
    return files_of("again")


def forked(files: NodeFiles, _tmp: Path) -> NodeFiles:
    assert cli.run(["fork", files.root.name, "fork"]) == Exit.DONE
    return files_of("fork")


def forked_twice(files: NodeFiles, _tmp: Path) -> NodeFiles:
    forked(files, _tmp)
    assert cli.run(["fork", "fork", "second"]) == Exit.DONE
    return files_of("second")


def started_over_in_vain(files: NodeFiles, _tmp: Path) -> NodeFiles:
    """Leave a node as a run that starts over and is refused does."""
    set_aside(files)
    write_json(files.identity, (read_json(files.identity) or {}) | {"id": "0" * 32})
    finish(files)
    return files


MOVES = (renamed, moved, copied, restored, restored_as_another, forked, forked_twice, started_over_in_vain)


@pytest.mark.parametrize("move", MOVES, ids=lambda move: move.__name__)
def test_a_nodes_own_files_are_recognized_wherever_they_are(
    move: Callable[[NodeFiles, Path], NodeFiles], tmp_path: Path
) -> None:
    before = trained("maths")
    made = node_id(before)
    assert made is not None
    assert ids(before) == {made.id}
    files = move(before, tmp_path)
    now = open_node(files.root.name)
    assert resumes(now)
    found = node_id(now)
    assert found is not None
    another = move in (restored_as_another, forked, forked_twice)
    assert (found.id != made.id, made.id in found.ancestors) == (another, another)
    assert found.id in ids(now)


@pytest.mark.parametrize("descend", [forked, restored_as_another])
def test_what_a_descendant_has_learned_is_not_its_ancestors(
    descend: Callable[[NodeFiles, Path], NodeFiles], tmp_path: Path
) -> None:
    before = trained("maths")
    after = descend(before, tmp_path)
    assert resumes(after)
    shutil.copytree(after.checkpoints / "00000006", before.checkpoints / "00000006")
    with pytest.raises(NodeConflict, match=f"a checkpoint of node {after.root.name}, not of node maths"):
        resumes(before, 8)


def test_files_of_older_versions_are_accepted_and_their_node_gets_an_id() -> None:
    files = trained("maths")
    made = read_json(files.identity) or {}
    write_json(files.identity, {key: value for key, value in made.items() if key != "id"})
    for seal in files.checkpoints.glob(f"[0-9]*/{SEAL}"):
        write_json(seal, {key: value for key, value in (read_json(seal) or {}).items() if key != "node"})
    with closing(sqlite3.connect(files.journal)) as db:
        db.execute("DROP TABLE owner")
    assert node_id(files) is None
    assert resumes(files)
    assert node_id(open_node("maths")) is not None
    assert resumes(files, 8)
    assert ids_of_newest(files) == node_id(files).id  # type: ignore[union-attr]


def ids_of_newest(files: NodeFiles) -> str:
    newest = max(files.checkpoints.glob("[0-9]*"))
    return str(json.loads((newest / SEAL).read_text())["node"]["id"])


def opened_again(files: NodeFiles, _tmp: Path) -> NodeFiles:
    return files


@pytest.mark.parametrize("written_before", [0, 1, 2], ids=["all name it", "the newest names none", "none names it"])
@pytest.mark.parametrize("move", [opened_again, restored, restored_as_another, forked], ids=lambda move: move.__name__)
def test_a_node_that_went_back_to_an_older_version_has_the_same_id_again(
    move: Callable[[NodeFiles, Path], NodeFiles], written_before: int, tmp_path: Path
) -> None:
    """Its ``node.json`` is then the one from before the upgrade, and that version's checkpoints name no node."""
    before = trained("maths")
    made = read_json(before.identity) or {}
    write_json(before.identity, {key: value for key, value in made.items() if key != "id"})
    seals = sorted(before.checkpoints.glob(f"[0-9]*/{SEAL}"), reverse=True)
    assert len(seals) == 2
    for seal in seals[:written_before]:
        write_json(seal, {key: value for key, value in (read_json(seal) or {}).items() if key != "node"})
    files = move(before, tmp_path)
    assert resumes(open_node(files.root.name))
    found = node_id(files)
    assert found is not None
    assert made["id"] in (found.id, *found.ancestors)


def test_another_node_from_a_backup_counts_what_only_its_checkpoints_know(tmp_path: Path) -> None:
    before = trained("maths")
    for seal in before.checkpoints.glob(f"[0-9]*/{SEAL}"):
        write_json(seal, (read_json(seal) or {}) | {"usd": 1.25})
    assert spent_so_far(before) == 1.25
    again = restored_as_another(before, tmp_path)
    assert spent_so_far(again) == 1.25
    assert resumes(again)
    assert spent_so_far(again) == 1.25


def test_a_node_that_has_not_begun_keeps_its_id_with_other_settings() -> None:
    """Its trainer may have failed after it opened the journal."""
    files = open_node("maths")
    first = node_id(files)
    assert first is not None
    Journal(files.journal, "0" * 64, node=first).close()
    assert node_id(open_node("maths", node={"seed": 5})) == first
    Journal(files.journal, "0" * 64, node=node_id(files)).close()


def test_a_node_that_starts_over_has_another_id() -> None:
    files = trained("maths")
    before = node_id(files)
    config = Config.model_validate((read_json(files.config) or {})["config"])
    fresh = config.model_copy(update={"node": config.node.model_copy(update={"fresh": True})})
    with opened(fresh, lambda other: other):
        run(make_config(game={"rounds": 2}), files.root)
    after = node_id(files)
    assert before is not None
    assert after is not None
    assert before.id != after.id
    assert ids(files) == {after.id}


def test_a_nodes_id_survives_damage_and_other_tools(tmp_path: Path) -> None:
    for text in ("", "[]", '{"id": 5}', '{"name": "x"}'):
        (tmp_path / "node.json").write_text(text)
        found = node_id(NodeFiles(tmp_path))
        assert found == (NodeId("5", tmp_path.name) if "5" in text else None)
