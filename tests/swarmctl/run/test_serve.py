"""``swarmctl run --serve``: the node's own server is started, watched and stopped. The trainer is the stand-in."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hivemind_exp.offload.api.sglang import ASLEEP, TURNING
from swarmctl.errors import Exit
from tests.support.command_line import ROOT, Cli, read, told, write_profile
from tests.support.patience import finish
from tests.support.piped_swarmctl import PipedSwarmctl
from tests.support.processes import is_alive
from tests.support.waiting import until

pytestmark = pytest.mark.slow
PROFILE = """
tasks = ["spell_backward"]
[model]
name = "org/small"
dtype = "float32"
[model.lora]
rank = 12
"""


@pytest.fixture
def engine() -> str:
    """Return the engine whose program is started. Tests of another one replace this."""
    return "vllm"


@pytest.fixture
def program(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str) -> Path:
    """Return the path of an engine's program, and save a profile ``served``."""
    write_profile(home, "served", PROFILE)
    path = tmp_path / "bin" / engine
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT / "tests/support/fake_vllm.py"}" "$@"\n')
    path.chmod(0o755)
    records = tmp_path / "records"
    records.mkdir()
    monkeypatch.setenv("FAKE_VLLM", str(records))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-never-for-a-server")
    return path


@pytest.fixture
def servers(tmp_path: Path) -> Callable[[], dict[int, dict[str, Any]]]:
    """Return what each server wrote down, by its process id."""
    return lambda: {int(path.stem): json.loads(path.read_text()) for path in (tmp_path / "records").glob("*.json")}


@pytest.fixture
def start(home: Path, tmp_path: Path, program: Path) -> Iterator[Callable[..., PipedSwarmctl]]:
    """Start a run with a server. Afterwards, none of its processes may be left."""
    running: list[PipedSwarmctl] = []

    def start(*options: str, **environment: str) -> PipedSwarmctl:
        place = tmp_path / f"place-{len(running)}"
        place.mkdir()
        words = ("run", "--profile", "served", "--serve", str(program), *options)
        environment |= {name: value for name, value in os.environ.items() if name in ("FAKE_VLLM", "OPENAI_API_KEY")}
        running.append(PipedSwarmctl(words, {"STAND_IN": "run", **environment}, place, stand_in=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        until(lambda process=process: not process.left())  # type: ignore[misc]


def all_ended(servers: dict[int, dict[str, Any]]) -> bool:
    return not any(is_alive(pid) or is_alive(each["worker"]) for pid, each in servers.items())


def events(home: Path) -> bytes:
    return read(home / "nodes/served/events.jsonl")


def test_the_trainer_is_told_where_the_nodes_own_server_is(
    start: Callable[..., PipedSwarmctl], home: Path, servers: Callable[[], dict[int, dict[str, Any]]], program: Path
) -> None:
    process = start("--rounds", "2", "--set", 'offload.serving.arguments=["--max-loras=9"]')
    _, said = finish(process)
    assert process.returncode == Exit.DONE, said
    ((_, server),) = servers().items()
    asked = json.loads((home / "nodes/served/request.json").read_text())["config"]["offload"]
    arguments = server["arguments"]
    port = arguments[arguments.index("--port") + 1]
    assert asked["serving"]["urls"] == [f"http://127.0.0.1:{port}/v1"]
    assert (asked["provider"], asked["kind"]) == ("vllm", "policy")
    assert arguments[:3] == ["serve", "org/small", "--enable-lora"]
    assert arguments[-1] == "--max-loras=9", "the user's arguments come last, so they win"
    pairs = dict(itertools.pairwise(arguments))
    chosen = {"--max-lora-rank": "16", "--max-loras": "4", "--dtype": "float32", "--host": "127.0.0.1"}
    chosen |= {"--served-model-name": "org/small", "--logprobs-mode": "processed_logprobs", "--max-model-len": "1536"}
    assert {name: pairs[name] for name in chosen} == chosen
    assert server["environment"]["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert "sk-never-for-a-server" not in server["environment"].values()
    assert f"The node starts {program}" in said
    assert "Prompts stay on this machine" in said
    assert all_ended(servers())
    again = start("--node", "served", "--rounds", "3")
    _, said = finish(again)
    assert again.returncode == Exit.DONE, said
    assert "Changed: game.rounds 2 → 3" in said
    assert "offload.serving.urls" not in said, "another port is no change of a setting"


@pytest.mark.parametrize("engine", ["sglang"])
def test_sglang_is_started_with_its_own_flags(
    start: Callable[..., PipedSwarmctl],
    home: Path,
    servers: Callable[[], dict[int, dict[str, Any]]],
    program: Path,
) -> None:
    process = start("--rounds", "1", CUDA_VISIBLE_DEVICES="0", SGLANG_RETURN_ORIGINAL_LOGPROB="1")
    _, said = finish(process)
    assert process.returncode == Exit.DONE, said
    ((_, server),) = servers().items()
    arguments, environment = server["arguments"], server["environment"]
    asked = json.loads((home / "nodes/served/request.json").read_text())["config"]["offload"]
    assert (asked["provider"], asked["kind"], asked["serving"]["turns"]) == ("sglang", "policy", "on")
    assert asked["serving"]["urls"] == [f"http://127.0.0.1:{arguments[arguments.index('--port') + 1]}/v1"]
    assert arguments[:2] == ["serve", "--enable-lora"]
    chosen = {"--max-lora-rank": "12", "--max-loras-per-batch": "2", "--dtype": "float32", "--host": "127.0.0.1"}
    chosen |= {"--model-path": "org/small", "--served-model-name": "org/small", "--mem-fraction-static": "0.5"}
    pairs = dict(itertools.pairwise(arguments))
    assert {name: pairs[name] for name in chosen} == chosen
    assert {"--enable-memory-saver", "--enable-weights-cpu-backup"} <= set(arguments)
    assert (environment["CUDA_VISIBLE_DEVICES"], environment.get("SGLANG_RETURN_ORIGINAL_LOGPROB")) == ("0", None)
    assert "sk-never-for-a-server" not in environment.values()
    assert f"The node starts {program}" in said
    assert all_ended(servers())


def test_on_the_gpu_of_the_node_the_server_takes_turns_with_it(
    start: Callable[..., PipedSwarmctl], home: Path, servers: Callable[[], dict[int, dict[str, Any]]]
) -> None:
    process = start("--rounds", "1", CUDA_VISIBLE_DEVICES="0")
    _, said = finish(process)
    assert process.returncode == Exit.DONE, said
    ((_, server),) = servers().items()
    pairs = dict(itertools.pairwise(server["arguments"]))
    assert (pairs["--gpu-memory-utilization"], pairs["--max-loras"], pairs["--host"]) == ("0.6", "2", "127.0.0.1")
    assert "--enable-sleep-mode" in server["arguments"]
    assert server["environment"]["VLLM_SERVER_DEV_MODE"] == "1"
    assert server["environment"]["CUDA_VISIBLE_DEVICES"] == "0"
    asked = json.loads((home / "nodes/served/request.json").read_text())["config"]["offload"]
    assert asked["serving"]["turns"] == "on"
    assert "so they take turns (neither needs the memory while the other works)" in said
    assert "offload.serving.turns" not in said.partition("Changed: ")[2]
    again = start("--node", "served", "--rounds", "2", "--set", "offload.serving.turns=off", CUDA_VISIBLE_DEVICES="0")
    _, said = finish(again)
    assert again.returncode == Exit.DONE, said
    (second,) = [each for each in servers().values() if each != server]
    assert "0.45" in second["arguments"]
    assert "--enable-sleep-mode" not in second["arguments"]
    assert "at the same time (offload.serving.turns = off), so the server keeps 45 % of its memory" in said


def test_a_server_that_is_told_to_take_turns_says_so_on_a_gpu_of_its_own(
    start: Callable[..., PipedSwarmctl], servers: Callable[[], dict[int, dict[str, Any]]]
) -> None:
    process = start("--rounds", "1", "--set", "offload.serving.turns=on", CUDA_VISIBLE_DEVICES="0,1")
    _, said = finish(process)
    assert process.returncode == Exit.DONE, said
    ((_, server),) = servers().items()
    assert "--enable-sleep-mode" in server["arguments"]
    assert "--gpu-memory-utilization" not in server["arguments"]
    assert "The server sleeps while the node trains (offload.serving.turns = on)." in said


def test_a_server_that_is_killed_is_started_again_at_the_same_port(
    start: Callable[..., PipedSwarmctl], home: Path, servers: Callable[[], dict[int, dict[str, Any]]]
) -> None:
    process = start("--rounds", "0")
    until(lambda: b'"event": "round"' in events(home))
    ((first, before),) = servers().items()
    os.kill(first, signal.SIGKILL)
    until(lambda: len(servers()) == 2 and b"Starting it again (1 of 5 in a row)" in events(home))
    assert not is_alive(before["worker"])
    (after,) = (each for pid, each in servers().items() if pid != first)
    assert after["arguments"] == before["arguments"]
    process.send_signal(signal.SIGINT)
    _, said = finish(process)
    assert process.returncode == Exit.INTERRUPTED
    assert "warning: vllm was killed (SIGKILL)" in said
    assert all_ended(servers())


@pytest.mark.parametrize("engine", ["sglang"])
@pytest.mark.parametrize(("version", "count"), [(f"{TURNING}default", 2), (f"{ASLEEP}default", 1), ("default", 1)])
def test_a_server_left_in_an_unknown_state_is_restarted_before_the_trainer_is(
    start: Callable[..., PipedSwarmctl],
    tmp_path: Path,
    servers: Callable[[], dict[int, dict[str, Any]]],
    version: str,
    count: int,
) -> None:
    (tmp_path / "records/version").write_text(version)
    acts = {"STAND_IN": "first killed, then run", "STAND_IN_PAUSE": "0.1"}
    process = start("--rounds", "1", "--restart", "on-failure", **acts)
    _, said = finish(process)
    assert process.returncode == Exit.DONE, said
    assert ("so nobody knows whether it sleeps. Starting it again" in said) == (count == 2)
    found = list(servers().values())
    assert [each["arguments"] for each in found] == count * [found[0]["arguments"]]
    assert all_ended(servers())


def test_kill_9_of_swarmctl_leaves_no_server(
    start: Callable[..., PipedSwarmctl], home: Path, servers: Callable[[], dict[int, dict[str, Any]]]
) -> None:
    process = start("--rounds", "0")
    until(lambda: b'"event": "round"' in events(home))
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: all_ended(servers()))


def test_a_server_that_ignores_the_request_to_end_is_killed(
    start: Callable[..., PipedSwarmctl], home: Path, servers: Callable[[], dict[int, dict[str, Any]]]
) -> None:
    process = start("--rounds", "0")
    until(lambda: b'"event": "round"' in events(home))
    (pid,) = servers()
    psutil.Process(pid).suspend()  # it cannot react to SIGTERM
    process.send_signal(signal.SIGTERM)
    finish(process)
    assert process.returncode == Exit.DONE
    assert all_ended(servers())


def test_ctrl_c_while_the_server_loads(
    start: Callable[..., PipedSwarmctl], home: Path, servers: Callable[[], dict[int, dict[str, Any]]]
) -> None:
    process = start("--rounds", "0", FAKE_VLLM_ACT="loads")
    until(servers)
    process.send_signal(signal.SIGINT)
    finish(process)
    assert process.returncode == Exit.INTERRUPTED
    assert b'"event": "round"' not in events(home)
    assert all_ended(servers())


@pytest.mark.parametrize(
    ("act", "why", "logged"),
    [
        ("fails", "The GPU has too little free memory for it.", "No available memory"),
        ("too long", "Its model has fewer positions than a prompt and a completion may have together", "1216"),
        ("unknown", 'It printed: "Value error, odd. [type=value_error]"', "For further information"),
    ],
)
def test_a_server_that_cannot_start_says_why(
    start: Callable[..., PipedSwarmctl],
    home: Path,
    servers: Callable[[], dict[int, dict[str, Any]]],
    *,
    act: str,
    why: str,
    logged: str,
) -> None:
    process = start("--rounds", "0", FAKE_VLLM_ACT=act)
    _, said = finish(process)
    assert process.returncode == Exit.CONFIGURATION, said
    cause, following = said.splitlines()[-2:]
    assert cause.startswith(f"error: vllm exited with code 1. {why}")
    assert following.split() == ["try:", "tail", "-n", "50", str(home / "nodes/served/server.log")]
    assert logged in (home / "nodes/served/server.log").read_text()
    assert all_ended(servers())


@pytest.mark.parametrize(
    ("options", "cause", "following"),
    [
        (("--serve", "vllm", "--offload", "openai"), "use either --serve or --offload", "swarmctl run --help"),
        (("--serve", "no-such-program"), "no program no-such-program on the PATH", "uv tool install vllm"),
        (("--serve", "no-sglang -m x"), "SGLang needs an environment of its own", "uv tool install sglang"),
        (("--serve", "'"), "not a command", "swarmctl"),
        (("--serve", "{program}", "--model", "tiny"), "cannot serve the demo's tiny model", "--model smollm2"),
        (("--serve", "{program}", "--set", "model.lora.rank=600"), "up to rank 512", "model.lora.rank=512"),
        (
            ("--serve", "{program}", "--set", 'offload.serving.urls=["http://127.0.0.1:1/v1"]'),
            "offload.serving.urls has no effect",
            "offload.serving.urls=[]",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_starts(
    stand_in: Cli, program: Path, options: tuple[str, ...], cause: str, following: str
) -> None:
    words = [word.format(program=program) for word in options]
    said = told(stand_in("run", "--profile", "served", *words))
    assert cause in said[0]
    assert following in said[1]
    assert "server.log" not in [path.name for path in program.parents[1].rglob("*")]


def test_a_dry_run_and_doctor_start_nothing(
    stand_in: Cli, program: Path, servers: Callable[[], dict[int, dict[str, Any]]]
) -> None:
    options = ("--profile", "served", "--set", f"offload.serving.command={program}")
    options = (*options, "--set", "offload.provider=vllm", "--set", "offload.kind=policy")
    done = stand_in("run", *options, "--dry-run", "--json")
    assert json.loads(done.stdout)["check"]["offload"]["servers_down"] == {}
    found = stand_in("doctor", "api", *options)
    assert f"the node starts {program}" in found.stdout
    program.unlink()
    if shutil.which("vllm") is None:
        assert "no program" in stand_in("doctor", "api", *options).stdout
    assert servers() == {}
