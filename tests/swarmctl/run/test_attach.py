"""Which node ``attach`` watches if none is named."""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest

from hivemind_exp.run_record import RunRecord, write_record
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.storage import node_lock as locks
from swarmctl.storage.json_file import write_json
from swarmctl.terminal.command_line import typed
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
    assert error.endswith("attach two\n")


@pytest.mark.parametrize(
    ("record", "fresh", "said", "command"),
    [
        (None, False, "node maths has not run yet", "swarmctl run --node maths"),
        (RunRecord(begun=True, stop={"reason": "signal", "round": 3}), False, "is not running", "run --node maths"),
        (
            RunRecord(begun=True, stop={"reason": "done", "round": 80}),
            False,
            "node maths has finished 80 rounds and is not running. To continue it, give it more rounds",
            "swarmctl run --node maths --rounds 160",
        ),
        # A node that starts over at every run has always something to do.
        (RunRecord(begun=True, stop={"reason": "done", "round": 80}), True, "is not running", "run --node maths"),
        (
            RunRecord(begun=True, error={"message": "out of memory"}),
            False,
            f"node maths is not running: it failed (see `{typed('swarmctl logs maths')}`)",
            "swarmctl run --node maths",
        ),
    ],
)
def test_the_command_after_attach_always_leads_on(
    capsys: pytest.CaptureFixture[str], record: RunRecord | None, *, fresh: bool, said: str, command: str
) -> None:
    files = bare_node()
    write_json(files.config, {"config": {"node": {"fresh": fresh}}})
    if record is not None:
        write_record(files.run, record)
    assert cli.run(["attach", "maths"]) == Exit.CONFIGURATION
    error, following = capsys.readouterr().err.splitlines()
    assert error.endswith(said)
    assert following.endswith(command)
