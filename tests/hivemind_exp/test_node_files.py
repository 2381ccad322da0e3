"""Files that determine a node's questions: a damaged one is refused, never replaced by another value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hivemind_exp.errors import FileProblem
from hivemind_exp.node_files import NodeFiles

HASH = "ab" * 32


@pytest.mark.parametrize(
    ("stored", "expected"), [({"charter": HASH}, HASH), ({"charter": HASH, "swarm": HASH}, None), ({}, None)]
)
def test_the_charter_of_a_node_without_a_swarm_is_in_its_identity(
    tmp_path: Path, stored: object, expected: str | None
) -> None:
    files = NodeFiles(tmp_path)
    files.identity.write_text(json.dumps(stored))
    assert files.fixed_charter() == expected


@pytest.mark.parametrize("charter", [False, 5, "", HASH[1:], [HASH], HASH + "\n"])
def test_a_damaged_charter_is_refused(tmp_path: Path, charter: object) -> None:
    files = NodeFiles(tmp_path)
    files.identity.write_text(json.dumps({"charter": charter}))
    with pytest.raises(FileProblem, match="its charter is"):
        files.fixed_charter()


def test_a_secret_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    files = NodeFiles(tmp_path)
    assert files.secret() == files.secret()
    files.secret_file.unlink()
    files.secret_file.mkdir()
    with pytest.raises(FileProblem, match=r"cannot read .*secret: Is a directory"):
        files.secret()
    files.secret_file.rmdir()
    files.secret_file.symlink_to(tmp_path / "missing")
    with pytest.raises(FileProblem, match=r"cannot read .*secret: No such file"):
        files.secret()
