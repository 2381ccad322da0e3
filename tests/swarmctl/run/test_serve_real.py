"""``run --serve`` with a real server on the CPU. ``make test-vllm`` and ``make test-sglang`` run this."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from hivemind_exp.node_files import NodeFiles
from swarmctl.errors import Exit
from tests.support.command_line import ROOT, SWARMCTL, read
from tests.support.real_server import SGLANG_MODULE, SWITCHES
from tests.support.tiny_models import save_for_vllm
from tests.support.waiting import until

PROGRAMS = {name: path for name in ("vllm", "sglang") if (path := os.environ.get(name.upper()))}
"""By engine: the path of vLLM, and of the Python that has SGLang."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not PROGRAMS, reason="needs a real server: make test-vllm or make test-sglang"),
]
START_S = 900.0
OF_CPUS = ("--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch")
ARGUMENTS = {
    "vllm": ("--enforce-eager",),
    "sglang": (*OF_CPUS, "--lora-backend", "torch_native", "--disable-cuda-graph", "--max-total-tokens", "20000"),
}


@pytest.mark.parametrize("trained", ["adapters", "all weights"])
@pytest.mark.parametrize("engine", PROGRAMS)
def test_a_node_starts_and_stops_its_own_server(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str, trained: str
) -> None:
    """As a user would: ``run --serve``. After two rounds, the server is killed; after two more, the run is stopped."""
    served = [str(Path(PROGRAMS[engine]).absolute()), *(SGLANG_MODULE if engine == "sglang" else ())]
    for name, value in SWITCHES[engine].items():
        monkeypatch.setenv(name, value)
    model = save_for_vllm(tmp_path / "model")
    settings = {
        "model.name": str(model),
        "model.dtype": "float32",
        **({"model.lora.rank": "8"} if trained == "adapters" else {}),
        "tasks": '["spell_backward"]',
        "prompt.style": "tags",
        "prompt.examples": "0",
        "game.groups": "2",
        "game.group_size": "4",
        "generation.max_prompt_tokens": "200",
        "generation.max_completion_tokens": "16",
        "eval.every": "0",
        "offload.serving.arguments": json.dumps(ARGUMENTS[engine]),
    }
    changes = [word for pair in settings.items() for word in ("--set", "=".join(pair))]
    command = [*SWARMCTL, "run", "--profile", "default", "--node", "served", "--rounds", "0", "--plain", *changes]
    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen([*command, "--serve", shlex.join(served)], stdout=said, stderr=said, cwd=ROOT)
    files = NodeFiles(home / "nodes/served")

    def rounds(source: str) -> int:
        lines = [json.loads(line) for line in read(files.events).splitlines() if line.endswith(b"}")]
        return sum(each["event"] == "rollouts" and each["source"] == source for each in lines)

    try:
        until(lambda: process.poll() is not None or rounds("policy") >= 2, START_S)
        assert process.poll() is None, (tmp_path / "said").read_text()
        family = [each for each in psutil.Process(process.pid).children(recursive=True) if "--port" in each.cmdline()]
        server = next(each for each in family if "swarmctl.serving.guard" not in each.cmdline())
        server.kill()
        until(lambda: b"Starting it again (1 of 5 in a row)" in read(files.events))
        before = rounds("policy")
        until(lambda: process.poll() is not None or rounds("policy") >= before + 2, START_S)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == Exit.INTERRUPTED, (tmp_path / "said").read_text()
    finally:
        process.kill()
    assert not [each for each in psutil.process_iter(["cmdline"]) if str(model) in (each.info["cmdline"] or [])]
