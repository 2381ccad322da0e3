"""``swarmctl run --detach``, ``swarmctl attach`` and ``swarmctl restart``."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from swarmctl.errors import Exit
from swarmctl.nodes.lookup import files_of
from swarmctl.storage.json_file import read_json
from swarmctl.storage.node_lock import is_held
from tests.support.command_line import STAND_IN, Cli, run_process
from tests.support.processes import is_alive
from tests.support.terminals import rest_of, spawn
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_leftovers")]

ENDLESS = ("run", "-p", "demo", "--rounds", "0", "--detach")


@pytest.fixture
def stand_in() -> Cli:
    """As elsewhere, but started: ``swarmctl`` starts its own program again in the background."""

    def run(*arguments: str, act: str = "run", **environment: str) -> subprocess.CompletedProcess[str]:
        return run_process([*STAND_IN, *arguments], env=os.environ | {"STAND_IN": act} | environment)

    return run


def test_a_detached_node_is_watched_and_stopped_from_elsewhere(stand_in: Cli, home: Path) -> None:
    node = home / "nodes/demo"
    started = stand_in(*ENDLESS)  # returns only if the node does not keep the pipes open
    assert started.returncode == Exit.DONE, started.stderr
    assert "Node demo (new)" in started.stderr
    assert "Node demo now runs in the background (pid " in started.stderr
    assert is_held(node / "lock")
    terminal = spawn([*STAND_IN, "attach"], environment=os.environ | {"TERM": "xterm", "CI": ""})
    terminal.expect("Watching node demo")
    terminal.expect("done")  # the live view, after a round
    terminal.sendintr()
    assert "Node demo continues. To stop it:" in rest_of(terminal)
    assert terminal.exitstatus == Exit.DONE
    watching = spawn([*STAND_IN, "attach", "demo", "--plain"])
    watching.expect(r"Round \d+")
    assert stand_in("stop", "demo").returncode == Exit.DONE
    assert "Stopped after" in rest_of(watching)
    assert watching.exitstatus == Exit.DONE
    until(lambda: "Resume" in (node / "background.log").read_text())
    until(lambda: not is_alive((read_json(node / "lock") or {})["pid"]))
    stopped = stand_in("attach", "demo")
    assert stopped.returncode == Exit.CONFIGURATION
    assert stopped.stderr.startswith("error: node demo is not running\n")
    assert stopped.stderr.endswith("run --node demo\n")


def test_a_detached_run_that_cannot_start_fails_in_the_foreground(stand_in: Cli, home: Path) -> None:
    refused = stand_in(*ENDLESS, act="refused")
    assert refused.returncode == Exit.CONFIGURATION
    assert "error: no such device" in refused.stderr
    assert not is_held(home / "nodes/demo/lock")
    assert "no node is running" in stand_in("attach").stderr


def test_a_running_node_is_restarted_in_the_background_with_its_settings(stand_in: Cli, home: Path) -> None:
    nothing = stand_in("restart")
    assert nothing.returncode == Exit.CONFIGURATION
    assert "no node is running; name the node to start" in nothing.stderr
    assert stand_in(*ENDLESS, "--set", "train.beta=0.5").returncode == Exit.DONE
    (before,) = json.loads(stand_in("status", "--json").stdout)["nodes"]
    done = stand_in("restart")
    assert done.returncode == Exit.DONE, done.stderr
    (after,) = json.loads(stand_in("status", "--json").stdout)["nodes"]
    assert re.fullmatch(
        rf"Restarted node demo after \d+ rounds?\. It runs in the background \(pid {after['pid']}\)\.\n", done.stdout
    )
    assert before["pid"] != after["pid"]
    assert not is_alive(before["pid"])
    assert json.loads((home / "nodes/demo/request.json").read_text())["config"]["train"]["beta"] == 0.5
    assert stand_in("stop", "demo").returncode == Exit.DONE
    started = json.loads(stand_in("restart", "demo", "--json").stdout)["nodes"]
    assert [(row["node"], row["was_running"]) for row in started] == [("demo", False)]
    assert is_alive(started[0]["pid"])
    assert stand_in("stop", "--all").returncode == Exit.DONE
    until(lambda: not is_alive(started[0]["pid"]))


def test_one_node_that_does_not_restart_keeps_no_other_from_it(stand_in: Cli) -> None:
    assert stand_in("run", "-p", "demo", "--node", "one", "--rounds", "2").returncode == Exit.DONE
    assert stand_in("run", "-p", "demo", "--node", "two", "--rounds", "2").returncode == Exit.DONE
    (files_of("one").root / "config.json").write_text("{")
    both = stand_in("restart", "one", "two")
    assert both.returncode == Exit.CONFIGURATION
    assert "warning: node one does not start:" in both.stderr
    assert "config.json" in both.stderr.splitlines()[-2]
    assert both.stdout == ""
    assert "Node two has already finished, so nothing was started." in both.stderr
    assert "run --node two --rounds 4" in both.stderr


def test_a_script_gets_the_detached_process(stand_in: Cli) -> None:
    started = stand_in(*ENDLESS, "--json", "--quiet")
    process = json.loads(started.stdout)
    assert process["node"] == "demo"
    (row,) = json.loads(stand_in("status", "--json").stdout)["nodes"]
    assert row["pid"] == process["pid"]
    assert stand_in("stop", "--all").returncode == Exit.DONE
    until(lambda: not is_alive(process["pid"]))
