"""Every file in the directories of real nodes has a format number, or a reason why not; a newer one is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import torch

from hivemind_exp.formats import FORMAT
from hivemind_exp.node_files import NodeFiles
from swarmctl.errors import Exit
from tests.support.command_line import UNTRAINED, Cli, told, write_profile
from tests.support.fake_api.server import api_server
from tests.support.forked_swarmctl import swarmctl
from tests.support.offload_runs import spelled

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_leftovers")]

SMALL = f"""{UNTRAINED}
[game]
rounds = 4
groups = 2
[checkpoint]
every = 2
keep = 2
[swarm]
loopback = true
"""
OFFLOADING = """
[offload]
provider = "box"
share = 0.5
[offload.prices.box]
input = 1
output = 1
[providers.box]
base_url = "{url}"
model = "m"
"""


def in_json(path: Path, change: int) -> int:
    """Return a JSON file's number, after raising it by ``change``. So do the following two."""
    content = json.loads(path.read_bytes())
    content["schema"] += change
    path.write_text(json.dumps(content))
    return int(content["schema"])


def in_sqlite(path: Path, change: int) -> int:
    with closing(sqlite3.connect(path)) as db:
        (found,) = db.execute("PRAGMA user_version").fetchone()
        db.execute(f"PRAGMA user_version={found + change}")
        return int(found) + change


def in_state(path: Path, change: int) -> int:
    content = torch.load(path, weights_only=True)
    content["schema"] += change
    torch.save(content, path)
    seal = path.with_name("checkpoint.json")
    about = json.loads(seal.read_bytes())
    about["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    seal.write_text(json.dumps(about))
    return int(content["schema"])


@dataclass(frozen=True)
class Unnumbered:
    """A file without a number of ours."""

    reason: str
    refused: str | None
    """What the error says if the file has one byte more; None: nothing in it is relied on."""


FILES: Mapping[str, Callable[[Path, int], int] | Unnumbered] = {
    "*.json": in_json,
    "*.sqlite": in_sqlite,
    "swarm/port": in_json,
    "checkpoints/*/trainer.pt": in_state,
    "checkpoints/*/model/*": Unnumbered("Hugging Face's formats; checkpoint.json has their digests", None),
    "secret": Unnumbered("32 random bytes; only their number could change", "33 bytes instead of 32"),
    "identity.key": Unnumbered("libp2p's format", "identity.key"),
    "charter": Unnumbered("signed as received, with a format number of its own", "invalid charter"),
    "events.jsonl": Unnumbered("a log, which nothing depends on", None),
    "trainer.log": Unnumbered("a log, which nothing depends on", None),
    "lock": Unnumbered("written anew by each start, and empty until then", None),
}
"""What a node's directory contains: patterns of paths, and where the number of such a file is."""


def kind_of(name: str) -> Callable[[Path, int], int] | Unnumbered:
    """Return what is known about a file of a node. Fails for a file that the table lacks."""
    found = [kind for pattern, kind in FILES.items() if fnmatchcase(name, pattern)]
    assert found, f"{name} needs a format number (hivemind_exp.formats), or a reason in this table why it has none"
    return found[-1]


def alone(_home: Path) -> list[str]:
    return ["--node", "n", "--profile", "small"]


def offloading(_home: Path) -> list[str]:
    """Half of each group comes from an API."""
    return ["--node", "n", "--profile", "offloading", "--max-usd", "1"]


def in_a_swarm(home: Path) -> list[str]:
    made = swarmctl("swarm", "new", "n", "--profile", "small", SWARMCTL_HOME=str(home))
    assert made.returncode == 0, made.stderr
    return ["--node", "n"]


@pytest.fixture(scope="module", params=[alone, offloading, in_a_swarm], ids=lambda make: make.__name__)
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home directory of a node after four rounds and a request to its model."""
    home = tmp_path_factory.mktemp("trained")
    write_profile(home, "small", SMALL)
    with api_server(answer=spelled) as server:
        write_profile(home, "offloading", SMALL + OFFLOADING.format(url=server.base_url))
        environment = {"SWARMCTL_HOME": str(home), "OMP_NUM_THREADS": "1"}
        done = swarmctl("run", *request.param(home), "--rounds", "4", **environment)
        assert done.returncode == 0, done.stderr
        done = swarmctl("sample", "n", "hello", **environment)
        assert done.returncode == 0, done.stderr
        yield home


def test_a_newer_file_is_refused_and_an_older_one_is_read(trained: Path, home: Path, stand_in: Cli) -> None:
    shutil.copytree(trained, home)
    root = NodeFiles(home / "nodes/n").root
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    assert {"config.json", "journal.sqlite", "secret"} <= {*names}
    newest = max(name for name in names if name.endswith("trainer.pt"))
    again = ("run", "--node", "n", "--rounds", "6")
    for name in names:
        path, kind = root / name, kind_of(name)
        if isinstance(kind, Unnumbered):
            change = None if kind.refused is None else (lambda path: path.write_bytes(path.read_bytes() + b"\0"))
            words = kind.refused
        else:
            assert kind(path, 0) == FORMAT, name
            change, words = (lambda path, kind=kind: kind(path, 1)), f"{path.name} has format {FORMAT + 1}"
        if change is None or (name.endswith("trainer.pt") and name != newest):  # only the newest is read
            continue
        before = {each: each.read_bytes() for each in (path, path.with_name("checkpoint.json")) if each.exists()}
        change(path)
        changed = path.read_bytes()
        # The trainer itself opens these.
        refused = swarmctl(*again) if path.suffix in (".sqlite", ".pt", "") else stand_in(*again)
        assert refused.returncode == Exit.CONFIGURATION, (name, refused.stderr)
        cause, _ = told(refused)
        assert str(words) in cause, (name, cause)
        assert path.read_bytes() == changed, name
        for each, content in before.items():
            each.write_bytes(content)
    without_numbers(root)
    done = swarmctl(*again)
    assert done.returncode == Exit.DONE, done.stderr
    assert "damaged" not in done.stderr


def without_numbers(root: Path) -> None:
    """Write the two files that had no number in early versions as those did."""
    port = root / "swarm" / "port"
    if port.exists():
        port.write_text(f"{json.loads(port.read_bytes())['port']}\n")
    newest = max(root.glob("checkpoints/0*/trainer.pt"))
    content = torch.load(newest, weights_only=True)
    del content["schema"]
    torch.save(content, newest)
    seal = newest.with_name("checkpoint.json")
    about = json.loads(seal.read_bytes())
    about["sha256"][newest.name] = hashlib.sha256(newest.read_bytes()).hexdigest()
    seal.write_text(json.dumps(about))
