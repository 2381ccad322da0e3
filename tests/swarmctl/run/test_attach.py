"""Which node ``attach`` watches if none is named."""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest

from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.storage import node_lock as locks
from tests.support.journals import bare_node


def test_without_a_name_several_running_nodes_are_named_with_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["attach"]) == Exit.CONFIGURATION
    assert "no node is running" in capsys.readouterr().err
    with ExitStack() as stack:
        for name in ("one", "two"):
            lock = os.open(bare_node(name).lock, os.O_RDWR | os.O_CREAT)
            stack.callback(os.close, lock)
            assert locks.acquire(lock)
        assert cli.run(["attach"]) == Exit.USAGE
    error = capsys.readouterr().err
    assert "2 nodes are running (one, two); name one" in error
    assert error.endswith("attach one\n")
