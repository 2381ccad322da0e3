"""How ``swarmctl run`` is stopped: by signals, by ``swarmctl stop``, while frozen or killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.nodes.lookup import files_of
from tests.support.command_line import ROOT, STAND_IN, Cli, told
from tests.support.patience import finish, wait_for_end
from tests.support.processes import is_alive
from tests.support.waiting import until
from tests.swarmctl.run.conftest import Run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_leftovers")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGHUP, 0)], ids=["INT", "TERM", "HUP"]
)
def test_stop_signals(started: Callable[..., Run], number: int, code: int) -> None:
    process = started("run", 0, "--json", as_users_do=True)
    process.send_signal(number)
    out, err = finish(process, 20)
    assert process.returncode == code
    assert "Stopping within 5 s" in err
    assert "Saved: checkpoints/" in err
    assert err.splitlines()[-1].endswith("run --node demo")
    assert json.loads(out)["accuracy_after"] == 0.9


@pytest.mark.slow
def test_a_second_interrupt_stops_immediately(started: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_GRACE", "3600")  # without the second one, the trainer is killed only then
    process = started("hang")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert any("Stopping within" in line for line in process.stderr)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = finish(process)
    assert process.returncode == 130
    assert "Saved: every finished round." in err


@pytest.mark.slow
def test_a_trainer_that_does_not_stop_is_killed(
    started: Callable[..., Run], stand_in: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_GRACE", "1.5")
    process = started("hang")
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGHUP)
    _, err = finish(process, 30)
    assert process.returncode == 0
    assert "error" not in err
    (row,) = json.loads(stand_in("status", "demo", "--json").stdout)["nodes"]
    assert row["state"] == "stopped"  # as requested, although the trainer could not record that


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [2, 0])
def test_no_grandchild_is_left(started: Callable[..., Run], rounds: int) -> None:
    process = started("spawn", rounds)
    if not rounds:
        process.send_signal(signal.SIGTERM)
    finish(process, 20)
    assert process.returncode == 0


@pytest.mark.slow
def test_a_background_job_prints_the_command_that_stops_it(started: Callable[..., Run]) -> None:
    """If a script starts a job in the background, the shell makes it ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = started("run", as_users_do=True)  # inherits it
    finally:
        signal.signal(signal.SIGINT, before)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    line = next(line for line in process.stderr if "To stop it: " in line)
    subprocess.run(["sh", "-c", line.partition("To stop it: ")[2]], check=True)
    assert wait_for_end(process, 20) == Exit.DONE
    assert "Stopped after" in process.stderr.read()


@pytest.mark.slow
def test_stop_waits_until_nodes_have_saved_and_stopped(started: Callable[..., Run], stand_in: Cli, home: Path) -> None:
    assert stand_in("stop").stdout == "No node is running.\n"
    assert stand_in("stop", "--json").stdout == '{"schema": 1, "nodes": []}\n'
    process = started("run")
    done = stand_in("stop", "--json")
    assert done.returncode == Exit.DONE, done.stderr
    (row,) = json.loads(done.stdout)["nodes"]
    record = json.loads(files_of("demo").run.read_text())["stop"]
    assert (row["node"], row["was_running"], row["round"]) == ("demo", True, record["round"])
    finish(process, 20)
    assert process.returncode == Exit.DONE
    assert stand_in("stop", "demo").stdout == "Node demo is not running.\n"
    assert json.loads(stand_in("stop", "demo", "--json").stdout)["nodes"][0]["was_running"] is False


@pytest.mark.slow
def test_stop_continues_a_suspended_supervisor(started: Callable[..., Run], stand_in: Cli) -> None:
    process = started()
    process.send_signal(signal.SIGSTOP)
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    done = stand_in("stop", "demo")
    assert done.returncode == Exit.DONE
    assert "kill -CONT" not in done.stderr
    finish(process)
    assert process.returncode == Exit.DONE


@pytest.mark.slow
def test_stop_says_that_the_trainer_is_frozen(started: Callable[..., Run], stand_in: Cli, home: Path) -> None:
    process = started()
    trainer = json.loads(files_of("demo").lock.read_text())["trainer"]
    os.kill(trainer, signal.SIGSTOP)
    until(lambda: psutil.Process(trainer).status() == psutil.STATUS_STOPPED)
    stopping = subprocess.Popen([*STAND_IN, "stop", "demo"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert stopping.stderr is not None
    assert f"To continue it: kill -CONT {trainer}" in stopping.stderr.readline()
    os.kill(trainer, signal.SIGCONT)
    finish(stopping)
    assert stopping.returncode == Exit.DONE
    finish(process)


def test_stop_says_what_was_saved(started: Callable[..., Run], stand_in: Cli) -> None:
    process = started("run", 100_000)
    said = stand_in("stop", "--all").stdout
    assert re.fullmatch(r"Stopped node demo after \d+ of 100,000 rounds\. Saved: .*\n", said)
    finish(process, 20)
    both = stand_in("stop", "demo", "--all")
    assert both.returncode == Exit.USAGE
    assert stand_in("stop", "dmo").stderr.startswith("error: unknown node 'dmo'; did you mean demo?")


@pytest.mark.slow
def test_stop_signals_no_process_that_only_has_the_supervisors_pid(started: Callable[..., Run], stand_in: Cli) -> None:
    process = started("run")
    lock = files_of("demo").lock
    holder = json.loads(lock.read_text())
    lock.write_text(json.dumps(holder | {"pid": os.getpid()}))  # as if the pid had been given to this process
    assert stand_in("stop").returncode == Exit.DONE  # it stopped the trainer
    finish(process, 20)


@pytest.mark.slow
def test_stop_refuses_to_guess_a_nodes_process(started: Callable[..., Run], stand_in: Cli) -> None:
    process = started("run")
    files_of("demo").lock.write_text(json.dumps({"pid": os.getpid(), "trainer": os.getpid(), "since": "now"}))
    refused = stand_in("stop", "demo")
    assert "does not name its process" in refused.stderr
    assert refused.returncode == Exit.CONFIGURATION
    assert process.poll() is None
    process.terminate()
    finish(process, 20)


@pytest.mark.slow
def test_the_lock_outlives_a_killed_supervisor(started: Callable[..., Run], stand_in: Cli, home: Path) -> None:
    process = started("run", as_users_do=True)
    trainer = psutil.Process(json.loads(files_of("demo").lock.read_text())["trainer"])
    trainer.suspend()
    until(lambda: trainer.status() == psutil.STATUS_STOPPED)  # the signal takes effect when a thread is next scheduled
    process.kill()
    finish(process, 20)
    refused = stand_in("run", "-p", "demo")
    assert refused.returncode == Exit.CONFIGURATION
    assert f"is already running; the trainer (pid {trainer.pid}) was stopped by a signal" in refused.stderr
    subprocess.run(told(refused)[1].split(), check=True)
    until(lambda: not is_alive(trainer.pid))
    assert stand_in("run", "-p", "demo", "--rounds", "1").returncode == 0


@pytest.mark.slow
def test_a_frozen_trainer_is_reported_and_continues(
    started: Callable[..., Run], capsys: pytest.CaptureFixture[str]
) -> None:
    process = started("run", 0, "--quiet")
    pid = json.loads(files_of("demo").lock.read_text())["trainer"]
    psutil.Process(pid).suspend()
    assert process.stderr is not None
    line = next(line for line in process.stderr if "stopped" in line)
    assert line == (
        f"warning: the trainer (pid {pid}) was stopped by a signal, so the node does nothing. "
        f"To continue it: kill -CONT {pid}\n"
    )
    assert cli.run(["status", "--json"]) == Exit.DONE
    assert [each["pid"] for each in json.loads(capsys.readouterr().out)["nodes"][0]["stopped"]] == [pid]
    assert cli.run(["status"]) == Exit.DONE
    assert f"demo: {line.removeprefix('warning: ').strip()}" in capsys.readouterr().out
    subprocess.run(line.split(": ")[-1].split(), check=True)
    assert next(line for line in process.stderr if "stopped" in line) == f"Process {pid} is no longer stopped.\n"
    process.terminate()
    finish(process, 20)
    assert process.returncode == Exit.DONE
