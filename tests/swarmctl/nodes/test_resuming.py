"""A command that names the next one for a finished node names one that trains it further."""

from __future__ import annotations

import pytest

from hivemind_exp.run_record import RunRecord, write_record
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.nodes.lookup import files_of
from tests.support.journals import bare_node


def test_a_finished_node_is_resumed_with_more_rounds_after_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    files = bare_node("maths")
    write_record(files.run, RunRecord(begun=True, stop={"event": "stop", "reason": "done", "round": 80}))
    assert cli.run(["rename", "maths", "algebra"]) == Exit.DONE
    assert capsys.readouterr().out.endswith("run --node algebra --rounds 160\n")
    stopped = RunRecord(begun=True, stop={"event": "stop", "reason": "signal", "round": 90})
    write_record(files_of("algebra").run, stopped)
    assert cli.run(["rename", "algebra", "other"]) == Exit.DONE
    assert capsys.readouterr().out.endswith("run --node other\n")
