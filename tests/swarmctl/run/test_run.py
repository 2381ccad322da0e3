"""``swarmctl run`` from start to end, with a stand-in for the trainer: a real process with the same protocol."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from hivemind_exp.journal.journal import Journal
from swarmctl.errors import Exit
from swarmctl.nodes.lookup import files_of
from tests.support.command_line import ROOT, STAND_IN, Cli, next_command, read, told, write_profile
from tests.support.patience import finish
from tests.support.terminals import rest_of, spawn
from tests.support.waiting import until
from tests.swarmctl.run.conftest import Run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_leftovers")]


def test_a_run_to_its_end(stand_in: Cli, home: Path) -> None:
    done = stand_in("run", "-p", "demo", "--rounds", "3", "--json", act="noise")
    assert done.returncode == Exit.DONE
    assert done.stdout.count("\n") == 1
    seconds = {"generate": 0.12, "verify": 0.015, "train": 0.06, "share": 0.0, "other": 0.003}
    assert json.loads(done.stdout) == {
        "schema": 1,
        "node": "demo",
        "rounds": 3,
        "steps": 3,
        "accuracy_before": 0.38,
        "accuracy_after": 0.9,
        "accuracy_interval": [0.850593, 0.93433],
        "accuracy_before_interval": [0.315589, 0.448934],
        "rollouts": {"policy": 24},
        "peers": None,
        "groups_shared": None,
        "seconds": seconds,
    }
    assert "library noise" not in done.stderr
    assert b"library noise" in (home / "nodes/demo/trainer.log").read_bytes()
    assert "Round 3 of 3: 3 of 8 correct, reward 0.32, 5,210 tokens/s, 0.1 s." in done.stderr
    assert "Accuracy 38 % (32–45) → 90 % (85–93) on 200 held-out questions." in done.stderr
    assert "It taught no new skill." in done.stderr
    assert "warning: this is slow" in done.stderr
    assert "\x1b" not in done.stderr


def test_what_the_trainer_is_given(stand_in: Cli, home: Path) -> None:
    assert stand_in("run", "-p", "demo", "--rounds", "1", "--seed", "7").returncode == 0
    request = json.loads((home / "nodes/demo/request.json").read_text())
    assert request["mode"] == "run"
    assert request["node_dir"] == str(home / "nodes/demo")
    assert request["config"]["node"] == {"name": "demo", "seed": 7, "fresh": False}
    expected = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "TOKENIZERS_PARALLELISM": "false"}
    assert expected.items() <= request["environment"].items()


def test_quiet_prints_only_warnings_and_the_summary(stand_in: Cli) -> None:
    done = stand_in("run", "-p", "demo", "--rounds", "2", "-q")
    assert done.stdout == ""
    assert done.stderr.startswith("warning: this is slow.\nDone after 2 rounds")


@pytest.mark.slow
def test_the_printed_command_resumes_with_the_same_settings(stand_in: Cli, home: Path) -> None:
    write_profile(home, "mine", 'extends = "demo"\n')
    first = stand_in("run", "-p", "mine", "--node", "n", "--rounds", "2", "--set", "train.beta=0.5", act="limit")
    assert first.returncode == Exit.LIMIT
    again = next_command(first.stderr)
    assert again == ["run", "--node", "n"]
    one = json.loads((home / "nodes/n/request.json").read_text())["config"]
    second = stand_in(*again)
    assert json.loads((home / "nodes/n/request.json").read_text())["config"] == one
    assert "Node n (resumed)" in second.stderr
    assert "A tiny model is built on this machine" in first.stderr
    assert "A tiny model is built on this machine" not in second.stderr
    assert "Changed" not in second.stderr
    third = stand_in(*next_command(second.stderr), "--set", "train.beta=0.25")
    assert "Changed: game.rounds 2 → 4" in third.stderr
    assert "Changed: train.beta 0.5 → 0.25" in third.stderr


@pytest.mark.slow
def test_a_finished_node_says_so_and_starts_nothing(stand_in: Cli, home: Path) -> None:
    write_profile(home, "mine", 'extends = "demo"\n')
    assert stand_in("run", "-p", "mine", "--rounds", "2").returncode == Exit.DONE
    log = read(home / "nodes/mine/events.jsonl")
    paid = ("--offload", "groq", "--no-input")  # neither its key nor its cost is asked for
    again = stand_in("run", "--node", "mine", "--json", *paid)
    assert again.returncode == Exit.DONE
    assert again.stderr.startswith("Node mine has already finished, so nothing was started. Done after 2 rounds.")
    assert json.loads(again.stdout)["rounds"] == 2
    assert read(home / "nodes/mine/events.jsonl") == log
    assert "has finished, so a run would do nothing" in stand_in("run", "--node", "mine", "--dry-run").stdout
    assert "swarmctl run --node mine --fresh" in again.stderr
    more = stand_in(*next_command(again.stderr))
    assert "Done after 4 rounds" in more.stderr
    assert "would do nothing" not in stand_in("run", "--node", "mine", "--rounds", "5", "--dry-run").stdout


@pytest.mark.parametrize("act", ["refused", "killed"])
def test_a_run_that_cannot_start_deletes_nothing_of_the_last(act: str, stand_in: Cli, home: Path) -> None:
    assert stand_in("run", "-p", "demo", "--rounds", "2").returncode == 0
    checkpoint = home / "nodes/demo/checkpoints/2"
    checkpoint.mkdir(parents=True)
    events = read(home / "nodes/demo/events.jsonl")
    fresh = ("run", "-p", "demo", "--rounds", "2", "--fresh", "--yes")
    refused = stand_in(*fresh, "--device", "cuda", act=act)
    assert refused.returncode in (Exit.CONFIGURATION, Exit.FAILED)
    assert (checkpoint.exists(), read(home / "nodes/demo/events.jsonl")) == (True, events)
    again = stand_in(*fresh, "--device", "cpu")
    assert again.returncode == 0
    assert "Node demo (starting over)" in again.stderr
    assert not checkpoint.exists()
    assert list((home / "nodes/demo").glob(".[mp]*")) == []


@pytest.mark.slow
def test_a_node_starts_over_once_and_only_after_a_yes(stand_in: Cli, home: Path) -> None:
    assert stand_in("run", "-p", "demo", "--rounds", "2").returncode == Exit.DONE
    Journal(files_of("demo").journal, "").close()
    with closing(sqlite3.connect(files_of("demo").journal)) as db, db:
        db.execute("INSERT INTO turns (step, round, stage, part, finished) VALUES (2, 2, 'answer', 0, 1)")
    unconfirmed = stand_in("run", "-p", "demo", "--fresh")
    assert unconfirmed.returncode == Exit.CONFIGURATION
    assert "--fresh deletes what node demo learned in 2 rounds" in unconfirmed.stderr
    again = next_command(unconfirmed.stderr)
    assert again == ["run", "--profile", "demo", "--fresh", "--yes"]
    assert files_of("demo").journal.exists()
    terminal = spawn([*STAND_IN, "run", "-p", "demo", "--fresh"])
    terminal.expect("finished 2 rounds. Delete what it learned, and start over")
    terminal.sendline("n")
    assert "Cancelled. Nothing was changed." in rest_of(terminal)
    assert files_of("demo").journal.exists()
    limited = stand_in(*again, "--rounds", "3", act="limit")
    assert "Node demo (starting over)" in limited.stderr
    assert not files_of("demo").journal.exists()
    resumed = stand_in(*next_command(limited.stderr))
    assert "Node demo (resumed)" in resumed.stderr
    assert "Changed" not in resumed.stderr
    assert json.loads((home / "nodes/demo/request.json").read_text())["config"]["node"]["fresh"] is False


@pytest.mark.slow
def test_a_setting_can_be_unset_and_set_again(stand_in: Cli, home: Path) -> None:
    write_profile(home, "mine", 'extends = "demo"\n[node]\nfresh = true\n')
    ranks = []
    for words in (
        ["-p", "mine", "--set", "model.lora.rank=4"],
        ["--set", "model.lora=false"],
        ["--set", "model.lora.rank=8"],
    ):
        assert stand_in("run", "--node", "n", "--rounds", "1", *words).returncode == 0
        lora = json.loads((home / "nodes/n/request.json").read_text())["config"]["model"]["lora"]
        ranks.append(lora and lora["rank"])
    assert ranks == [4, None, 8]


def test_a_profile_file_is_found_again_from_another_directory(stand_in: Cli, home: Path, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('extends = "demo"\n[game]\nrounds = 1\n')
    assert stand_in("run", "-p", str(path)).returncode == 0
    assert json.loads(files_of("own").config.read_text())["profile"] == str(path)


@pytest.mark.slow
def test_a_deleted_profile_leads_to_the_command_that_runs_the_node_without_it(stand_in: Cli, home: Path) -> None:
    path = write_profile(
        home, "mine", 'extends = "demo"\n[game]\nrounds = 1\ngroups = 3\n[model]\nlora = {rank = 4}\n[hub]\nevery = 2\n'
    )
    assert stand_in("run", "-p", "mine", "--set", "train.learning_rate=3e-4").returncode == Exit.DONE
    before = json.loads(files_of("mine").config.read_text())["config"]
    path.unlink()
    refused = stand_in("run", "--node", "mine", "--rounds", "2")
    cause, following = told(refused)
    assert "the last run of node mine used the profile mine, which no longer exists" in cause
    words = shlex.split(following)
    assert words[words.index("run") :][:5] == ["run", "--node", "mine", "--profile", "demo"]
    done = stand_in(*words[words.index("run") :])
    assert done.returncode == Exit.DONE, done.stderr
    after = json.loads(files_of("mine").config.read_text())["config"]
    assert (before["game"].pop("rounds"), after["game"].pop("rounds")) == (1, 2)
    assert after == before
    again = stand_in("run", "--node", "mine", "--rounds", "3")
    assert again.returncode == Exit.DONE, again.stderr
    assert "Changed: game.rounds 2 → 3" in again.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "exit", "told", "following"),
    [
        ("error", Exit.FAILED, "error: too large", "--set train.micro_batch=1"),
        (
            "killed",
            Exit.FAILED,
            "was killed from outside (SIGKILL); the kernel did not run out of memory",
            "run --node demo",
        ),
        ("traceback", Exit.FAILED, r"RuntimeError: the flux was \x1b[31mreversed", "run --node demo"),
        ("disk_full", Exit.FAILED, "No space left on device", "df -h "),
        ("unfit", Exit.CONFIGURATION, "error: cannot generate a question", "doctor --node demo"),
    ],
)
def test_a_trainer_that_fails(stand_in: Cli, act: str, exit: Exit, told: str, following: str) -> None:
    done = stand_in("run", "-p", "demo", "--rounds", "2", act=act)
    assert done.returncode == exit
    *_, cause, command = done.stderr.splitlines()
    assert told in cause
    assert command.startswith("  try: ")
    assert following in command
    assert "Traceback" not in done.stderr
    (row,) = json.loads(stand_in("status", "--json").stdout)["nodes"]
    assert row["error"]["message"] in done.stderr
    assert row["error"]["message"] in stand_in("logs", "demo").stdout
    as_json = stand_in("run", "-p", "demo", "--rounds", "2", "--json", act=act)
    assert json.loads(as_json.stdout)["error"]["message"] in done.stderr


@pytest.mark.parametrize(
    ("act", "code", "told"),
    [("run", Exit.DONE, "Done after 2 rounds"), ("limit", Exit.LIMIT, "Limit reached"), ("error", 1, "too large")],
)
def test_the_outcome_of_a_run_does_not_depend_on_the_log(stand_in: Cli, act: str, code: int, told: str) -> None:
    done = stand_in("run", "-p", "demo", "--rounds", "2", act=act, STAND_IN_NO_LOG="1")
    assert done.returncode == code
    assert told in done.stderr
    assert "Saved: checkpoints/2" in done.stderr or act == "error"


def rename(log: Path) -> None:
    log.rename(log.with_name("events.jsonl.1"))


def truncate(log: Path) -> None:
    os.truncate(log, 0)


@pytest.mark.parametrize("rotate", [rename, truncate, Path.unlink])
def test_a_run_continues_when_its_log_is_rotated(
    started: Callable[..., Run], home: Path, rotate: Callable[[Path], None]
) -> None:
    process = started("run")
    log = home / "nodes/demo/events.jsonl"
    rotate(log)
    assert process.stderr is not None
    until(lambda: b'"event": "round"' in read(log))
    last = next(json.loads(line)["round"] for line in read(log).splitlines() if b'"event": "round"' in line)
    until(lambda: f"Round {last + 2}: " in str(process.stderr and process.stderr.readline()))
    process.send_signal(signal.SIGTERM)
    err = finish(process, 20)[1]
    assert process.returncode == Exit.DONE
    assert "Stopped after" in err
    assert "Saved: checkpoints/" in err


def test_out_of_memory_suggests_smaller_batches_with_the_same_settings(stand_in: Cli, home: Path) -> None:
    tasks = "tasks=[{name='spell_backward', weight=2}]"
    done = stand_in("run", "-p", "demo", "--rounds", "2", "--set", tasks, act="killed", STAND_IN_OOM="1")
    assert re.search(
        r"the trainer was killed by the kernel because memory ran out, with \d+\.\d of \d+\.\d GiB in use", done.stderr
    )
    again = next_command(done.stderr)
    assert again == ["run", "--node", "demo", "--set", "train.micro_batch=64", "--set", "generation.batch=64"]
    assert stand_in(*again).returncode == 0
    config = json.loads((home / "nodes/demo/request.json").read_text())["config"]
    assert config["train"]["micro_batch"] == 64
    assert config["game"]["rounds"] == 2
    assert config["tasks"][0]["weight"] == 2


@pytest.mark.slow
def test_a_second_run_of_the_same_node_is_refused(started: Callable[..., Run], stand_in: Cli) -> None:
    process = started("run")
    refused = stand_in("run", "-p", "demo")
    assert refused.returncode == Exit.CONFIGURATION
    assert "node demo is already running (pid " in refused.stderr
    assert refused.stderr.rstrip().endswith("swarmctl status demo")
    planned = stand_in("run", "-p", "demo", "--dry-run")
    assert planned.returncode == Exit.DONE
    assert planned.stdout.startswith("node      demo (is running): ")
    process.terminate()
    finish(process, 20)


@pytest.mark.slow
def test_only_one_of_several_concurrent_runs_of_a_new_node_starts(home: Path) -> None:
    command = [*STAND_IN, "run", "-p", "demo", "--rounds", "80", "-q"]
    several = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) for _ in range(3)]
    for process in several:
        finish(process, 30)
    assert sorted(process.returncode for process in several) == [0, 3, 3]
    assert [path.name for path in (home / "nodes").iterdir()] == ["demo"]


@pytest.mark.slow
def test_a_run_continues_when_its_output_is_closed(home: Path, stand_in: Cli) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [*STAND_IN, "run", "-p", "demo", "--rounds", "3"]
    done = subprocess.run(command, cwd=ROOT, stderr=writer, check=False)
    os.close(writer)
    assert done.returncode == 0
    assert b'"round": 2' in read(home / "nodes/demo/events.jsonl")


def test_another_model_for_an_existing_node(stand_in: Cli, home: Path) -> None:
    text = '[model]\nname = "./one"\n[game]\nrounds = 1\n'
    write_profile(home, "mine", text)
    assert stand_in("run", "-p", "mine").returncode == 0
    refused = stand_in("run", "-p", "mine", "--model", "Qwen/two", "--json")
    assert refused.returncode == Exit.CONFIGURATION
    error = json.loads(refused.stdout)["error"]
    assert error["code"] == "node_conflict"
    assert error["message"].endswith("/one, now Qwen/two")
    words = shlex.split(error["next"])
    following = words[words.index("run") :]
    assert following == ["run", "--profile", "mine", "--node", "mine-2", "--model", "Qwen/two"]
    assert stand_in(*following).returncode == 0


SMALL_DISK = 'mount -t tmpfs -o size=16k tmpfs "$SWARMCTL_HOME" && head -c 14000 /dev/zero > "$SWARMCTL_HOME/big"; "$@"'


@pytest.mark.slow
def test_a_full_disk(home: Path) -> None:
    home.mkdir()
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        subprocess.run([*namespace, SMALL_DISK, "sh", "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this system does not allow private mounts")
    look = 'find "$SWARMCTL_HOME" -mindepth 1 -not -name big'
    command = f'{shlex.join(STAND_IN)} run -p demo --rounds 1; echo "rc $?"; {look}'
    done = subprocess.run(
        [*namespace, SMALL_DISK, "sh", "sh", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stderr.startswith(f"error: cannot write {home}/nodes/demo: No space left on device\n  try: df -h ")
    assert "rc 1\n" in done.stdout
    assert "demo" not in done.stdout
