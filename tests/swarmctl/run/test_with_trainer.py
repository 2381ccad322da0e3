"""``swarmctl run`` with the real trainer: user errors, and how a run ends."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from swarmctl.errors import Exit
from tests.support.absent import API_CLIENTS, without
from tests.support.command_line import ROOT, SWARMCTL, UNTRAINED, Cli, told, write_profile
from tests.support.fake_hub import serve_hub
from tests.support.forked_swarmctl import ForkedSwarmctl, swarmctl
from tests.support.full_disk import mounted_disk
from tests.support.patience import finish
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_leftovers")]

SMALL = f"""{UNTRAINED}
[game]
groups = 2
"""


@pytest.fixture(autouse=True)
def small(home: Path) -> None:
    """Write a profile whose node runs rounds within a second."""
    write_profile(home, "small", SMALL)


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*SWARMCTL, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def ended(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    out, said = finish(process, 120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, said)


def test_a_wrong_task_is_reported_before_anything_is_created(home: Path) -> None:
    done = swarmctl("run", "--profile", "small", "--task", "spel_backward")
    cause, following = told(done)
    assert "spell_backward" in cause
    assert "--task spell_backward" in following
    assert done.returncode == Exit.CONFIGURATION
    assert not (home / "nodes").exists()


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_warm_up_for_another_task_is_refused_before_anything_is_created(
    more: list[str], home: Path, tmp_path: Path
) -> None:
    own = tmp_path / "my own.jsonl"
    own.write_text("".join(json.dumps({"question": f"{n} + 1?", "answer": n + 1}) + "\n" for n in range(10)))
    for task, shown in (("gsm8k", "gsm8k"), (str(own), f"'{own}'")):
        done = swarmctl("run", "--profile", "demo", "--node", "own", "--task", task, *more)
        cause, following = told(done)
        assert cause == (
            f"error: the tiny model supports only the task spell_backward, not {task}; train a real model instead "
            "(1 GB download)"
        )
        assert following.endswith(" ".join([f"run --profile cpu --task {shown}", *more]))
        assert done.returncode == Exit.CONFIGURATION
    assert not (home / "nodes").exists()


def test_metrics_for_a_service_without_its_key(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "WANDB_MODE": "online", "NETRC": str(tmp_path / "netrc")}
    done = ended(start("run", "--profile", "small", "--rounds", "1", "--set", "report.to=['wandb']", **environment))
    cause, following = told(done)
    assert "Weights & Biases has no valid API key" in cause
    assert following.endswith("keys set wandb")
    assert done.returncode == Exit.CONFIGURATION


def test_a_bad_line_of_a_jsonl_file_is_named(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"question": "1 + 1?", "answer": 2}\n{"question": "2 + 2?", "anwser": 4}\n')
    done = swarmctl("run", "--profile", "small", "--task", str(path))
    cause, _ = told(done)
    assert "own.jsonl:2" in cause
    assert done.returncode == Exit.CONFIGURATION
    assert not (home / "nodes").exists()


def test_a_node_learns_from_the_users_own_questions(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("".join(json.dumps({"question": f"{n} + 1?", "answer": n + 1}) + "\n" for n in range(40)))
    done = swarmctl(
        *("run", "--profile", "small", "--task", str(path), "--rounds", "2", "--json"),
        *("--set", "generation.max_prompt_tokens=256"),
    )
    result = json.loads(done.stdout)
    assert done.returncode == Exit.DONE, done.stderr
    assert (result["rounds"], result["steps"], result["rollouts"]) == (2, 2, {"policy": 32})
    assert result["accuracy_before"] is not None


def test_models_that_are_gated_missing_or_unreachable(tmp_path: Path) -> None:
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    with serve_hub({}, gated=("org/gated",)) as endpoint:
        gated, away = [
            swarmctl("run", "--model", name, "--node", name[4:], "--device", "cpu", HF_ENDPOINT=at, **environment)
            for name, at in (("org/gated", endpoint), ("org/away", "http://127.0.0.1:9"))
        ]
    assert "org/gated is gated" in told(gated)[0]
    assert gated.returncode == Exit.CONFIGURATION
    assert "is unreachable" in told(away)[0]
    assert "--profile demo" in told(away)[1]
    assert away.returncode == Exit.FAILED
    assert list(tmp_path.glob("home/nodes/*/checkpoints/*")) == []


def test_a_key_given_as_a_model_is_never_shown() -> None:
    key = "sk-proj-Abcdefghijklmnop0123456789"
    done = swarmctl("run", "--model", key, "--node", "leaky", "--device", "cpu", "-v", HF_HUB_OFFLINE="1")
    assert done.returncode != Exit.DONE
    assert "(hidden: looks like a key)" in told(done)[0]
    again = swarmctl("run", "--model", "org/other", "--node", "leaky", "--dry-run")
    for each in (done, again, swarmctl("status"), swarmctl("status", "--json")):
        assert key not in each.stdout + each.stderr
    assert "(hidden: looks like a key)" in swarmctl("status").stdout


def test_a_model_that_does_not_exist_can_be_corrected_under_the_same_name(tmp_path: Path, stand_in: Cli) -> None:
    wrong = swarmctl("run", "--profile", "small", "--model", str(tmp_path / "absent"), "--set", "warmup.steps=0")
    assert "cannot load a model from" in told(wrong)[0]
    assert "no such directory" in told(wrong)[0]
    assert wrong.returncode == Exit.CONFIGURATION
    right = stand_in("run", "--profile", "small", "--rounds", "1")
    assert right.returncode == Exit.DONE, right.stderr
    other = swarmctl("run", "--profile", "small", "--model", "org/other")
    assert "model" in told(other)[0]
    assert "--node" in told(other)[1]
    assert other.returncode == Exit.CONFIGURATION


def test_a_run_whose_memory_runs_out_continues_with_half_of_the_batch() -> None:
    words = ("run", "--profile", "small", "--rounds", "1", "--plain", "--set", "game.groups=25")
    large = ("--set", "game.group_size=2400", "--set", "generation.batch=60000")
    # What the libraries take of a trainer's address space: with a CUDA build several times more. This process has more.
    counted = [sys.executable, "-c", "import psutil, torch; print(psutil.Process().memory_info().vms // 1024)"]
    room = int(subprocess.run(counted, check=True, capture_output=True, text=True).stdout) + 1_000_000
    command = f"ulimit -v {room}; exec {shlex.join([*SWARMCTL, *words, *large])}"
    with subprocess.Popen(
        ["bash", "-c", command], cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if "ran out of memory" in line)
        node = psutil.Process(process.pid)
        for each in (node, *node.children(recursive=True)):  # node first: it would start a trainer that died again
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.communicate()
    assert "with 60000 completions at a time; they are generated again with 30000, the limit from now on" in said


@pytest.mark.parametrize("which", ["-S", "-SH"])
def test_a_limit_of_cpu_time_is_named(which: str) -> None:
    """Loading PyTorch takes more."""
    words = ("run", "--profile", "small", "--rounds", "1", "--plain")
    command = f"ulimit {which} -t 2; exec {shlex.join([*SWARMCTL, *words])}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", check=False
    )
    cause, following = told(done)
    assert "it had used the CPU time that this shell allows (2 s, ulimit -t)" in cause
    assert following == "ulimit -Ht"
    assert done.returncode == Exit.FAILED


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with mounted_disk(tmp_path, "2500k") as place:
        monkeypatch.setenv("SWARMCTL_HOME", str(place))
        write_profile(place, "small", SMALL)
        yield place


def test_a_full_disk_is_reported_and_no_partial_file_is_left(small_disk: Path) -> None:
    done = swarmctl("run", "--profile", "small", "--rounds", "2", "--set", "checkpoint.every=1")
    cause, following = told(done)
    assert "no space left" in cause.lower()
    assert following.startswith("df -h ")
    assert done.returncode == Exit.FAILED
    assert list((small_disk / "nodes/small/checkpoints").iterdir()) == []
    ok = subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=False)
    assert ok.returncode == 0
    assert swarmctl("run", "--node", "small").returncode == Exit.DONE


def wait_for_rounds(home: Path, count: int) -> None:
    events = home / "nodes/small/events.jsonl"
    until(lambda: events.exists() and events.read_text().count('"event": "round"') >= count, seconds=60)


def test_a_stop_saves_prints_the_resume_command_and_leaves_no_process(home: Path, tmp_path: Path) -> None:
    """Every stop signal reaches the trainer as the same signal: see ``test_stops``.

    This is also a run without offloading, where the libraries for it are missing.
    """
    write_profile(home, "small", f'{SMALL}[providers.mybox]\nbase_url = "http://127.0.0.1:9/v1"\nmodel = "m"\n')
    process = start("run", "--profile", "small", **without(tmp_path, *API_CLIENTS))
    wait_for_rounds(home, 3)
    process.send_signal(signal.SIGINT)
    _, said = finish(process, 30)
    assert process.returncode == Exit.INTERRUPTED
    assert "Stopping within 5 s" in said
    assert "run --node small" in said
    assert list((home / "nodes/small/checkpoints").iterdir())
    last = json.loads((home / "nodes/small/events.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["reason"]) == ("stop", "signal")
    assert last["steps"] >= 3


def test_a_killed_supervisor_ends_its_trainer_and_the_node_resumes(home: Path, tmp_path: Path) -> None:
    process = ForkedSwarmctl(("run", "--profile", "small"), {}, tmp_path)
    wait_for_rounds(home, 2)
    second = swarmctl("run", "--profile", "small")
    assert "already running" in told(second)[0]
    assert second.returncode == Exit.CONFIGURATION
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    process.kill()
    until(lambda: not psutil.wait_procs(family, timeout=0)[1], 20)
    before = (home / "nodes/small/events.jsonl").read_text().count('"event": "round"')
    done = swarmctl("run", "--node", "small", "--rounds", str(before + 3), "--json")
    assert done.returncode == Exit.DONE, done.stderr
    assert json.loads(done.stdout)["steps"] == before + 3


def test_a_dry_run_with_the_real_trainer_changes_nothing(home: Path) -> None:
    done = swarmctl("run", "--profile", "small", "--dry-run", "--json")
    found = json.loads(done.stdout)["check"]
    assert found["device"] == "cpu"
    assert found["model"]["where"] == "built locally"
    assert not (home / "nodes").exists()
