"""``swarmctl run --dry-run``: what it reports, and that it changes nothing."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from hivemind_exp.models.nvidia import Gpu
from swarmctl.errors import Exit
from swarmctl.run import dry_run
from swarmctl.serving.gpus import SHARED_MEMORY
from swarmctl.serving.memory import ASLEEP
from tests.support.command_line import STAND_IN, Cli, next_command
from tests.support.doctor import make
from tests.support.terminals import printed

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_leftovers")]


def test_dry_run_changes_nothing(stand_in: Cli, home: Path) -> None:
    done = stand_in("run", "-p", "demo", "--rounds", "5", "--dry-run")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) <= 10
    assert "settings  built-in demo, game.rounds = 5 (--rounds)\n" in done.stdout
    assert "model     tiny: built locally, 0.266 M parameters\n" in done.stdout
    assert "memory    needs about 2.0 GiB; 8.0 GiB available\n" in done.stdout
    as_json = json.loads(stand_in("run", "-p", "demo", "--dry-run", "--json").stdout)
    assert as_json["origins"]["model.name"] == "built-in demo"
    assert as_json["check"]["device"] == "cpu"
    assert not home.exists()


def test_fields_of_a_question_file_that_are_not_used_are_named(stand_in: Cli, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text("".join(f'{{"question": "{n}?", "answer": "{n}", "answers": []}}\n' for n in range(12)))
    line = f"{file}: only the fields question and answer are used, not answers. A question has one correct answer"
    for more in ((), ("--json",)):
        done = stand_in("run", "-p", "cpu", "--task", str(file), "--dry-run", *more)
        assert done.stderr.count(line) == 1, done.stderr
    assert line not in stand_in("run", "-p", "cpu", "--task", str(file), "--dry-run", "--quiet").stderr


def test_a_dry_run_with_all_settings_prints_valid_toml(stand_in: Cli) -> None:
    done = stand_in("run", "-p", "demo", "--rounds", "5", "--dry-run", "--all")
    assert "# model     tiny: built locally" in done.stdout
    assert "rounds = 5 # --rounds" in done.stdout
    assert tomllib.loads(done.stdout)["game"]["rounds"] == 5


@pytest.mark.parametrize(
    ("found", "setting", "line"),
    [
        (
            {"memory_available_bytes": 2**30},
            "",
            "memory    needs about 2.0 GiB for prompts of maximum length, but only 1.0 GiB are available.",
        ),
        (
            {"memory_available_bytes": 2**30, "memory_usual_bytes": 2**29},
            "",
            "memory    needs about 512 MiB for typical prompts, and 2.0 GiB for prompts of maximum length; 1.0 GiB ",
        ),
        (
            {"memory_available_bytes": 2**28, "memory_usual_bytes": 2**29},
            "",
            "memory    needs about 512 MiB for typical prompts, and 2.0 GiB for prompts of maximum length, but only",
        ),
        ({}, "", "task      spell_backward: Spell a word backward; until round 80"),
        (
            {"tasks": ["sapo", "mine.py"]},
            "",
            "task      sapo: Nine reasoning tasks in equal shares, as in arXiv 2509.08721; mine.py; until round 80",
        ),
        ({"tasks": ["ab", "gcd", "lcm", "dice"]}, "", "task      ab, gcd, lcm, dice; until round 80"),
        ({"memory_available_bytes": None}, "", "memory    needs about 2.0 GiB; the device's memory is unknown"),
        ({"memory_bytes": None}, "", "memory    unknown until the model is on this machine"),
        ({"model": {"where": "will be downloaded"}}, "", "model     tiny: not on this machine; the run downloads it"),
        ({"model": {"where": "will be downloaded"}}, "1", "model     tiny: not on this machine, and HF_HUB_OFFLINE"),
    ],
)
def test_a_dry_run_reports_a_missing_model_and_too_little_memory(
    stand_in: Cli, found: dict[str, object], setting: str, line: str
) -> None:
    done = stand_in("run", "-p", "demo", "--dry-run", act=f"found {json.dumps(found)}", HF_HUB_OFFLINE=setting)
    assert f"\n{line}" in done.stdout
    for command in re.findall(r"swarmctl (doctor .*)", done.stdout):
        assert stand_in(*shlex.split(command), "--offline").returncode in (Exit.DONE, Exit.CHECK_FAILED)


def test_a_check_that_fails(stand_in: Cli) -> None:
    done = stand_in("run", "-p", "demo", "--device", "auto", "--dry-run", act="error")
    assert done.returncode == Exit.CONFIGURATION
    assert done.stderr.startswith("error: no such device\n  try: ")
    assert next_command(done.stderr) == ["run", "--profile", "demo", "--device", "cpu", "--dry-run"]
    assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("columns", [60, 100])
def test_long_paths_in_the_plan_are_wrapped_behind_slashes(
    columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARMCTL_HOME", f"{tmp_path}{'/a-directory-with-a-name' * 6}")
    model = f"/models{'/a-directory-with-a-name' * 6}/SmolLM2-135M-Instruct"
    code, text = printed(
        [*STAND_IN, "run", "-p", "cpu", "--node", "demo", "--dry-run", "--model", model], columns=columns
    )
    assert code == Exit.DONE, text
    assert max(map(len, text.splitlines())) < columns
    whole = text.replace("\r\n" + " " * 10, "")
    assert f"{tmp_path}{'/a-directory-with-a-name' * 6}/nodes/demo" in whole
    assert f"model     {model}:" in whole


SERVED = ("offload.serving.command=vllm", "offload.provider=vllm", "offload.kind=policy", "model.lora.rank=16")
GIB = 2**30


@pytest.mark.parametrize(
    ("gpus", "settings", "left"),
    [
        (1, (), 24 * GIB - ASLEEP),
        (1, ("offload.serving.turns=off",), 24 * GIB - int(SHARED_MEMORY * 25 * GIB)),
        (1, ("offload.serving.turns=off", 'offload.serving.arguments=["--gpu-memory-utilization=0.2"]'), 19 * GIB),
        (2, (), None),
    ],
)
def test_what_the_nodes_own_server_keeps_is_not_available(
    gpus: int, settings: tuple[str, ...], left: int | None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = [Gpu(index, "GPU", "580.65", (9, 0), 25 * GIB, 24 * GIB) for index in range(gpus)]
    checked = {"memory_bytes": 20 * GIB, "memory_available_bytes": 24 * GIB}
    monkeypatch.setattr(dry_run, "nvidia_gpus", lambda: found)
    monkeypatch.setattr(dry_run.trainer, "check", lambda *_: checked)
    resolved = make("default", *SERVED, *settings).resolved
    assert resolved is not None
    plan = dry_run.planned(resolved, None, module="")
    assert plan.as_json()["check"]["memory_available_bytes"] == (left or 24 * GIB)
    (line,) = [text for label, text in plan._lines() if label == "memory"]
    assert ("beside the server" in line) == (left is not None)
    if left == 19 * GIB:
        assert line.startswith("needs about 20.0 GiB for prompts of maximum length, but only 19.0 GiB are available be")
