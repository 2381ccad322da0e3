"""A node whose secret has changed says that its held-out questions are new."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import GRPORunner
from tests.support.nodes import Events, make_config

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("changed", [True, False])
def test_a_changed_secret_is_reported(tmp_path: Path, changed: bool) -> None:
    files, events = NodeFiles(tmp_path / "node"), Events()
    files.root.mkdir()
    GRPORunner(make_config(game={"rounds": 1}, eval={"questions": 40}), files, Events()).run()
    if changed:
        files.secret_file.write_bytes(secrets.token_bytes(32))
    # Another number of questions keeps those that both have.
    GRPORunner(make_config(game={"rounds": 2}, eval={"questions": 30}), files, events).run()
    told = [each["message"] for each in events.of("warning") if each["code"] == "new_secret"]
    assert len(told) == changed
    assert all("because its file named secret has changed" in each for each in told)
