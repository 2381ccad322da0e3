"""``swarmctl rm`` and ``swarmctl rename``: what they change, refuse and ask."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.service import launchd, systemd
from swarmctl.service.definition import Service
from swarmctl.storage import node_lock as locks
from tests.support.command_line import Cli, write_profile
from tests.support.full_disk import mounted_disk
from tests.support.journals import bare_node, mixed_node

SMALL = 'extends = "demo"\n[game]\nrounds = 1\n'


@pytest.fixture
def maths() -> Path:
    """Create the node "maths"; return its directory."""
    return bare_node("maths").root


@contextmanager
def running(node: Path) -> Iterator[None]:
    """Hold the node's lock, as a running node does."""
    lock = os.open(node / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    assert locks.acquire(lock)
    try:
        yield
    finally:
        os.close(lock)


def test_a_node_is_deleted_only_after_a_yes(maths: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["rm", "maths"]) == Exit.CONFIGURATION  # no one can be asked
    err = capsys.readouterr().err
    assert "nothing was deleted" in err
    assert err.rstrip().endswith("rm maths --yes")
    with running(maths):
        assert cli.run(["rm", "maths", "--yes"]) == Exit.CONFIGURATION
        assert capsys.readouterr().err.rstrip().endswith("stop maths")
    assert cli.run(["rm", "maths", "mahts", "--yes"]) == Exit.CONFIGURATION
    assert "did you mean maths?" in capsys.readouterr().err
    assert maths.exists()
    assert cli.run(["rm", "maths", "--yes"]) == Exit.DONE
    assert capsys.readouterr().out == "Deleted node maths.\n"
    assert [path.name for path in maths.parent.iterdir() if "maths" in path.name] == []


@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.parametrize("words", [["rm", "maths", "--yes"], ["rename", "maths", "algebra"]])
def test_a_node_with_a_service_is_neither_deleted_nor_renamed(
    words: list[str], platform: str, maths: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    home = maths.parents[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path / 'a "b" %'))
        patch.delenv("XDG_CONFIG_HOME", raising=False)
        patch.setattr(sys, "platform", platform)
        module = systemd if platform == "linux" else launchd

        def install(service_home: Path) -> Path:
            service = Service("maths", maths, ("swarmctl",), {"SWARMCTL_HOME": str(service_home)}, {}, "auto")
            file: Path = module.path(service)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(module.text(service))
            return file

        patch.setenv("SWARMCTL_HOME", f"{home}/../{home.name}")
        file = install(home)
        assert cli.run(words) == Exit.CONFIGURATION
        err = capsys.readouterr().err
        assert "while it has a service" in err
        assert err.rstrip().endswith("service uninstall maths")
        assert maths.exists()
        file.unlink()
        install(tmp_path / 'an "other" %home')  # has a node of the same name
        assert cli.run(words) == Exit.DONE


def test_a_link_to_a_node_elsewhere_is_deleted_but_not_what_it_leads_to(maths: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "disk"
    maths.rename(elsewhere)
    maths.symlink_to(elsewhere)
    assert cli.run(["rm", "maths", "--yes"]) == Exit.DONE
    assert not maths.is_symlink()
    assert (elsewhere / "node.json").exists()


@pytest.mark.slow
def test_a_renamed_node_resumes_under_its_new_name(
    stand_in: Cli, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_profile(home, "maths", SMALL)
    assert stand_in("run", "-p", "maths").returncode == Exit.DONE
    maths = home / "nodes/maths"
    with running(maths):
        assert cli.run(["rename", "maths", "algebra"]) == Exit.CONFIGURATION
    assert cli.run(["rename", "maths", "../x"]) == Exit.USAGE
    assert cli.run(["rename", "maths", "maths"]) == Exit.CONFIGURATION
    capsys.readouterr()
    assert cli.run(["rename", "maths", "algebra", "--json"]) == Exit.DONE
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "node": "algebra", "was": "maths"}
    assert not maths.exists()
    again = stand_in("run", "--node", "algebra", "--rounds", "2")
    assert again.returncode == Exit.DONE, again.stderr
    assert "Node algebra (resumed)" in again.stderr
    assert json.loads((home / "nodes/algebra/node.json").read_bytes())["name"] == "algebra"
    assert not maths.exists()


def test_a_node_with_a_damaged_ledger_can_be_deleted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = mixed_node()
    node.ledger.write_bytes(b"no database, but longer than a page" * 200)
    assert cli.run(["rm", "maths"]) == Exit.CONFIGURATION
    assert "the record of what it has spent" in capsys.readouterr().err
    assert cli.run(["rm", "maths", "--yes"]) == Exit.DONE
    assert os.listdir(home / "nodes") == []


@pytest.mark.slow
def test_a_node_on_a_full_disk_can_be_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mounted_disk(tmp_path, "8m,nr_inodes=40") as disk:
        monkeypatch.setenv("SWARMCTL_HOME", str(disk / "home"))
        mixed_node().lock.touch()  # as every node that has run
        with contextlib.suppress(OSError):
            (disk / "fill").write_bytes(bytes(9 * 2**20))
        with contextlib.suppress(OSError):
            for number in range(100):
                (disk / str(number)).touch()
        assert cli.run(["rm", "maths", "--yes"]) == Exit.DONE
        assert os.listdir(disk / "home/nodes") == []
