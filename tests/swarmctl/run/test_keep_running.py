"""Trainers that fail are restarted: crashes, hangs, too little memory, full disks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from swarmctl.errors import Exit
from swarmctl.nodes.lookup import files_of
from swarmctl.storage.json_file import read_json
from tests.support.command_line import ROOT, STAND_IN, UNTRAINED, Cli, run_process, write_profile
from tests.support.forked_swarmctl import swarmctl
from tests.support.full_disk import mounted_disk
from tests.support.patience import finish
from tests.support.piped_swarmctl import PipedSwarmctl
from tests.support.processes import is_alive
from tests.support.restarts import same_weights
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_leftovers")]

RUN = ("run", "-p", "demo", "--rounds", "2", "--plain")
KEPT = (*RUN, "--restart", "on-failure")
SOON = {"STAND_IN_PAUSE": "0.1"}


def test_a_trainer_that_crashes_and_hangs_is_restarted_and_finishes(stand_in: Cli, home: Path) -> None:
    act = "first crash, then killed, then stuck"
    done = stand_in(*KEPT, "--set", "supervision.hang_after=1", act=act, **SOON)
    assert done.returncode == Exit.DONE, done.stderr
    told = [line for line in done.stderr.splitlines() if "Restarting in" in line]
    assert [line[-18:-2] for line in told] == ["1 of 10 in a row", "2 of 10 in a row", "3 of 10 in a row"]
    crashed, killed, hung = told
    assert "RuntimeError: the flux was reversed" in crashed
    assert "the trainer was killed from outside (SIGKILL)" in killed
    assert "the trainer hung: no sign of life for" in hung
    assert "a round usually takes 0.1 s" in hung
    log = files_of("demo").log.read_text()
    assert "Current thread" in log  # the stacks of the trainer that hung
    assert "fake_trainer.py" in log
    assert "restarted again" not in done.stderr
    assert (read_json(files_of("demo").lock) or {})["restarts"] == 3
    assert stand_in("logs", "demo", "--level", "warning").stdout.count("Restarting in") == 3


def test_nothing_is_restarted_unless_it_may_help(stand_in: Cli, home: Path) -> None:
    for act, code in (("refused", Exit.CONFIGURATION), ("limit", Exit.LIMIT)):
        done = stand_in(*KEPT, act=act, **SOON)
        assert (done.returncode, "Restarting" in done.stderr) == (code, False), done.stderr
    done = stand_in(*KEPT, "--set", "supervision.max_restarts=1", "--fresh", "--yes", act="crash", **SOON)
    assert done.returncode == Exit.CONFIGURATION, done.stderr
    assert done.stderr.count("Restarting in") == 1
    assert "the trainer failed again after 1 restart in a row, so it is not restarted again: " in done.stderr
    (row,) = json.loads(stand_in("status", "--json").stdout)["nodes"]
    assert (row["state"], row["error"]["code"]) == ("failed", "gave_up")


def test_a_detached_node_is_restarted_and_can_be_stopped_while_it_backs_off(stand_in: Cli, home: Path) -> None:
    detached = [*STAND_IN, "run", "-p", "demo", "--rounds", "0", "--detach"]
    started = run_process(detached, env=os.environ | {"STAND_IN": "run", "STAND_IN_PAUSE": "60"})
    assert started.returncode == Exit.DONE, started.stderr
    holder = read_json(files_of("demo").lock) or {}
    os.kill(holder["trainer"], signal.SIGSEGV)
    until(lambda: (read_json(files_of("demo").lock) or {}).get("doing"))
    (row,) = json.loads(stand_in("status", "--json").stdout)["nodes"]
    assert (row["state"], row["running"], row["pid"]) == ("backing off", True, holder["pid"])
    assert row["until"] is not None
    assert "demo: the trainer crashed with SIGSEGV" in stand_in("status").stdout
    stopped = stand_in("stop", "demo")
    assert stopped.returncode == Exit.DONE, stopped.stderr
    until(lambda: not is_alive(holder["pid"]))
    (row,) = json.loads(stand_in("status", "--json").stdout)["nodes"]
    assert (row["state"], row["running"], row["error"]) == ("stopped", False, None)


def test_batches_shrink_while_memory_runs_out(stand_in: Cli, home: Path) -> None:
    small = ("--set", "train.micro_batch=4", "--set", "generation.batch=8")
    done = stand_in(*KEPT, *small, act="large", STAND_IN_OOM="1", **SOON)
    assert done.returncode == Exit.DONE, done.stderr
    assert "Restarting in 0 s with train.micro_batch = 2 and generation.batch = 4 (1 of 10 in a row)" in done.stderr
    assert "with train.micro_batch = 1 and generation.batch = 2 (2 of 10 in a row)" in done.stderr
    config = json.loads((home / "nodes/demo/request.json").read_text())["config"]
    assert (config["train"]["micro_batch"], config["generation"]["batch"]) == (1, 2)
    assert config["offload"] == json.loads((home / "nodes/demo/config.json").read_text())["config"]["offload"]
    given_up = stand_in(*KEPT, *small, "--fresh", "--yes", act="too large", STAND_IN_OOM="1", **SOON)
    assert given_up.returncode == Exit.CONFIGURATION
    *_, cause, following = given_up.stderr.splitlines()
    assert cause.startswith("error: memory ran out again, even with train.micro_batch = 1 and generation.batch = 1 (")
    assert following.endswith(
        "run --node demo --set train.micro_batch=1 --set generation.batch=1 --set model.gradient_checkpointing=true"
    )


def test_a_trainer_that_used_less_memory_itself_is_restarted_as_it_was(stand_in: Cli, home: Path) -> None:
    done = stand_in(*KEPT, "--set", "train.micro_batch=4", act="error", **SOON)
    assert done.returncode == Exit.CONFIGURATION
    assert done.stderr.count("Restarting in") == 3
    assert "with train.micro_batch" not in done.stderr
    assert json.loads((home / "nodes/demo/request.json").read_text())["config"]["train"]["micro_batch"] == 4
    assert "the trainer failed again after 3 restarts in a row, so it is not restarted again: too large" in done.stderr


def test_a_full_disk_pauses_the_node_until_there_is_room(
    stand_in: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mounted_disk(tmp_path, "24m") as disk:
        monkeypatch.setenv("SWARMCTL_HOME", str(disk))
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(12 << 20))
        process = subprocess.Popen(
            [*STAND_IN, *KEPT],
            cwd=ROOT,
            env=os.environ | {"STAND_IN": "first full"} | SOON,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        until(lambda: files_of("demo").lock.exists() and (read_json(files_of("demo").lock) or {}).get("doing"))
        (row,) = json.loads(stand_in("status", "--json").stdout)["nodes"]
        assert row["state"] == "paused"
        assert row["detail"].endswith("Continues when 16 MiB are free")
        assert process.poll() is None
        ballast.unlink()
        _, told = finish(process, 30)
    assert process.returncode == Exit.DONE, told
    assert "warning: paused: cannot write" in told
    assert "The disk has room again, continuing." in told
    assert "in a row" not in told  # a pause is no failure


QUICK = f"""{UNTRAINED}
[game]
rounds = 40
groups = 2
[checkpoint]
every = 2
[supervision]
restart = "on-failure"
hang_after = 5
"""


def test_a_real_trainer_that_is_killed_and_stopped_learns_the_same(home: Path, tmp_path: Path) -> None:
    write_profile(home, "quick", QUICK)
    done = swarmctl("run", "-p", "quick", "--node", "calm", "--plain")
    assert done.returncode == Exit.DONE, done.stderr
    process = PipedSwarmctl(("run", "-p", "quick", "--node", "shaken", "--plain"), {}, tmp_path)
    files, attacks = files_of("shaken"), [signal.SIGKILL, signal.SIGSTOP]
    lines = []
    try:
        for line in process.stderr:
            lines.append(line)
            restarted = any("Restarting in" in each for each in lines)
            if line.startswith("Round ") and len(attacks) == 2 - restarted:
                os.kill((read_json(files.lock) or {})["trainer"], attacks.pop(0))
    finally:
        finish(process)
    assert process.returncode == Exit.DONE, lines
    assert process.left() == []
    told = "".join(lines)
    assert told.count("Restarting in") == 1, told
    assert "the trainer was stopped by a signal and did nothing for" in told
    assert "Current thread" not in files.log.read_text()  # writing the stacks of running threads can crash it
    assert same_weights(files_of("calm").root, files.root)


def test_too_little_memory_to_load_the_model_is_said_in_numbers(stand_in: Cli) -> None:
    done = stand_in(*KEPT, act="killed", STAND_IN_OOM="1", **SOON)
    assert done.returncode == Exit.CONFIGURATION, done.stderr
    assert done.stderr.count("Restarting in") == 3
    assert "generation.batch" not in done.stderr
    *_, cause, following = done.stderr.splitlines()
    assert re.match(
        r"error: memory ran out 4 times before the model was loaded \(\d+\.\d of \d+\.\d [GM]iB in use\), so ", cause
    )
    assert following.endswith("doctor --node demo")
