"""Real servers on this machine's CPU, which serve the weights of nodes that run in the test's process."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import Config
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.api.engines import INFERENCE_ENGINES
from hivemind_exp.offload.api.policy_server import SampledAnswer
from tests.support.nodes import make_config

ROUNDS, GROUPS, SIZE = 20, 4, 4
START_S = 900.0
VLLM_FLAGS = (
    "--dtype float32 --served-model-name policy --enable-lora --max-lora-rank 8 --max-loras 3 --enforce-eager "
    "--logprobs-mode processed_logprobs --max-model-len 256"
)
"""In float32: for bfloat16, vLLM uses AMX, which a virtual machine may announce and yet not allow (SIGILL)."""
SGLANG_FLAGS = (
    "--dtype float32 --served-model-name policy --enable-lora --max-lora-rank 8 --max-loras-per-batch 3 "
    "--lora-target-modules q_proj k_proj v_proj o_proj gate_proj up_proj down_proj --lora-backend torch_native "
    "--device cpu --attention-backend torch_native --sampling-backend pytorch --disable-cuda-graph "
    "--max-total-tokens 20000"
)
"""On a CPU without AMX, torch computes everything."""
SGLANG_MODULE = ("-m", "sglang.launch_server")
SWITCHES = {
    "vllm": {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_SERVER_DEV_MODE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    },
    "sglang": {"SGLANG_USE_CPU_ENGINE": "1", "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false"},
}
COMMANDS = {
    "vllm": lambda program, model: [program, "serve", model, *VLLM_FLAGS.split()],
    "sglang": lambda program, model: [program, *SGLANG_MODULE, "--model-path", model, *SGLANG_FLAGS.split()],
}


@dataclass
class Server:
    """A server that can be killed and started again."""

    engine: str
    program: str
    """The path of vLLM, or of the Python that has SGLang."""
    model: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = self.model.parent / f"{self.engine}.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [
                    *COMMANDS[self.engine](str(Path(self.program).absolute()), str(self.model)),
                    *("--host", "127.0.0.1", "--port", str(self.port)),
                ],
                env=os.environ | SWITCHES[self.engine] | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.model.parent,
            )
        until = time.monotonic() + START_S
        while not _answers(f"http://127.0.0.1:{self.port}/health"):
            assert self.process.poll() is None, log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < until, f"{self.engine} does not answer after {START_S:g} s"
            time.sleep(0.5)

    def stop(self, number: signal.Signals) -> None:
        """Send a signal to all its processes, and wait until it has ended."""
        assert self.process is not None
        os.killpg(self.process.pid, number)
        self.process.wait(60)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def configure(
    model: Path, url: str, *, engine: str = "vllm", offload: dict[str, Any] | None = None, **lora: int
) -> Config:
    offload = dict(offload or {})
    offload["serving"] = {"engine": engine} | offload.get("serving", {})
    return make_config(
        model={"name": str(model), "device": "cpu", "threads": 1, "lora": {"rank": 8} | lora},
        prompt={"style": "tags"},
        game={"rounds": ROUNDS, "groups": GROUPS, "group_size": SIZE},
        generation={"max_completion_tokens": 16, "max_prompt_tokens": 200, "temperature": 0.8},
        train={"learning_rate": 3e-3, "warmup_steps": 0, "micro_batch": 8},
        eval={"every": 0, "questions": 2},
        checkpoint={"every": ROUNDS},
        offload={"provider": "box", "kind": "policy"} | offload,
        providers={"box": {"base_url": url, "model": "policy", "free": True}},
    )


class Interrupted:
    """Does something to the server right before the request for one of the prompts, when its weights are loaded."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, request: int, do: Callable[[], None], engine: str = "vllm"
    ) -> None:
        client: Any = INFERENCE_ENGINES[engine]
        self.left, complete = request, client.complete

        async def interrupted(server: Any, *asked: Any) -> SampledAnswer:
            self.left -= 1
            if self.left == 0:
                await asyncio.to_thread(do)
            return await complete(server, *asked)

        monkeypatch.setattr(client, "complete", interrupted)


def journaled(root: Path) -> list[tuple[int, str, int, str]]:
    """Return the slot and source of each completion in a node's journal."""
    with sqlite3.connect(NodeFiles(root).journal) as db:
        return db.execute("SELECT round, question, idx, source FROM completions").fetchall()
