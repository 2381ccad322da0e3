"""``swarmctl run`` with several processes: what is refused, and that all of them end together."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest

from swarmctl.errors import Exit
from tests.support.command_line import UNTRAINED, told, write_profile
from tests.support.forked_swarmctl import ForkedSwarmctl, swarmctl
from tests.support.patience import finish
from tests.support.processes import is_alive
from tests.support.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_leftovers")]

MEMBER, TRAINER = "hivemind_exp.runner.member", "hivemind_exp.runner"
PATIENCE_S = 300.0
PAIR = f"""{UNTRAINED}
[game]
rounds = 0
groups = 2
[train]
processes = 2
"""


def descendants(process: ForkedSwarmctl, module: str) -> list[int]:
    found = psutil.Process(process.pid).children(recursive=True)
    return [each.pid for each in found if module in each.cmdline()]


def test_what_cannot_work_is_refused_with_a_command(home: Path) -> None:
    write_profile(home, "pair", UNTRAINED)
    on_cpu = swarmctl("run", "--profile", "pair", "--gpus", "2", "--device", "cpu")
    assert on_cpu.returncode == Exit.CONFIGURATION
    cause, following = told(on_cpu)
    assert "--gpus 2 cannot be used with model.device = cpu" in cause
    assert following.endswith("swarmctl run --profile pair --gpus 2 --set model.device=cuda")
    numbered = swarmctl("run", "--profile", "pair", "--gpus", "2", "--device", "cuda:1")
    assert numbered.returncode == Exit.CONFIGURATION
    assert "CUDA_VISIBLE_DEVICES" in numbered.stderr
    assert "cuda:1" in numbered.stderr
    few = swarmctl("run", "--profile", "pair", "--gpus", "64", "--device", "auto", "--dry-run")
    assert few.returncode == Exit.CONFIGURATION
    assert "train.processes = 64 needs 64 NVIDIA GPUs, but torch finds" in few.stderr
    assert "--gpus 1" in few.stderr
    assert not (home / "nodes").exists()
    plan = swarmctl("run", "--profile", "pair", "--set", "train.processes=2", "--device", "cpu", "--dry-run")
    assert "device    cpu, float32, 2 processes\n" in plan.stdout
    assert " for each process; " in plan.stdout


def test_all_processes_end_together_and_a_killed_one_is_replaced(home: Path, tmp_path: Path) -> None:
    write_profile(home, "pair", PAIR)
    events = home / "nodes" / "pair" / "events.jsonl"

    def rounds() -> int:
        lines = events.read_text().splitlines() if events.exists() else []
        return sum('"round"' in line.partition('"event"')[2][:12] for line in lines)

    process = ForkedSwarmctl(("run", "--profile", "pair", "--restart", "on-failure"), {}, tmp_path)
    try:
        until(lambda: rounds() > 1, PATIENCE_S)
        (member,) = descendants(process, MEMBER)
        os.kill(member, signal.SIGSTOP)
        stopped = f"a training process (pid {member}) was stopped by a signal, so the node does nothing"
        until(lambda: stopped in (tmp_path / "said").read_text(), PATIENCE_S)
        os.kill(member, signal.SIGCONT)
        before = rounds()
        until(lambda: rounds() > before + 1, PATIENCE_S)
        os.kill(member, signal.SIGKILL)
        before = rounds()
        until(lambda: rounds() > before + 1, PATIENCE_S)
        (member,) = descendants(process, MEMBER)
        trainer = psutil.Process(member).ppid()
        os.kill(trainer, signal.SIGKILL)
        until(lambda: not is_alive(member))
        before = rounds()
        until(lambda: rounds() > before + 1, PATIENCE_S)
        (member,) = descendants(process, MEMBER)
        process.send_signal(signal.SIGINT)
        _, said = finish(process, PATIENCE_S)
    finally:
        process.kill()
    assert process.wait() == 128 + signal.SIGINT
    assert not is_alive(member)
    killed = "process 2 of 2 was killed (SIGKILL), probably by the kernel because memory ran out"
    assert f"{killed} (fewer processes need less: train.processes)" in said
    assert said.count("Restarting in") == 2
