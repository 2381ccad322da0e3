"""Real servers on this machine's CPU, which serve the weights of nodes that run in the test's process."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import Config
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.api.engines import INFERENCE_ENGINES
from hivemind_exp.offload.api.policy_server import SampledAnswer
from hivemind_exp.runner.grpo_runner import GRPORunner
from tests.support.nodes import ChanceRewards, make_config
from tests.support.recorded_events import Events

ROUNDS, GROUPS, SIZE = 20, 4, 4
RESTARTED = 5
"""The round in which a server is restarted."""
START_S = 900.0
VLLM_FLAGS = (
    "--dtype float32 --served-model-name policy --enable-lora --max-lora-rank 8 --max-loras 4 --enforce-eager "
    "--logprobs-mode processed_logprobs --max-model-len 256"
)
"""In float32: for bfloat16, vLLM uses AMX, which a virtual machine may announce and yet not allow (SIGILL)."""
SGLANG_FLAGS = (
    "--dtype float32 --served-model-name policy --enable-lora --max-lora-rank 8 --max-loras-per-batch 4 "
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


@contextmanager
def running(engine: str, program: str, model: Path) -> Iterator[Server]:
    """Run a server at a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Server(engine, program, model, port)
    try:
        server.start()
        yield server
    finally:
        server.stop(signal.SIGTERM)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except OSError:
        return False


def configure(
    model: Path,
    url: str,
    *,
    engine: str = "vllm",
    whole: bool = False,
    offload: dict[str, Any] | None = None,
    **lora: int,
) -> Config:
    """Return a node's configuration. ``whole``: whether it trains all weights; ``lora``: otherwise, the adapters."""
    offload = dict(offload or {})
    offload["serving"] = {"engine": engine} | offload.get("serving", {})
    return make_config(
        model={"name": str(model), "device": "cpu", "threads": 1, "lora": None if whole else {"rank": 8} | lora},
        prompt={"style": "tags"},
        game={"rounds": ROUNDS, "groups": GROUPS, "group_size": SIZE},
        generation={"max_completion_tokens": 16, "max_prompt_tokens": 200, "temperature": 0.8},
        train={"learning_rate": 3e-4 if whole else 3e-3, "warmup_steps": 0, "micro_batch": 8},
        eval={"every": 0, "questions": 2},
        checkpoint={"every": ROUNDS},
        offload={"provider": "box", "kind": "policy"} | offload,
        providers={"box": {"base_url": url, "model": "policy", "free": True}},
    )


class Interrupted:
    """Does something to the server right before the request for one of the prompts, when its weights are loaded."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        request: int,
        do: Callable[[], None],
        engine: str = "vllm",
        method: str = "complete",
    ) -> None:
        client: Any = INFERENCE_ENGINES[engine]
        self.left, complete = request, getattr(client, method)

        async def interrupted(server: Any, *asked: Any) -> SampledAnswer:
            self.left -= 1
            if self.left == 0:
                await asyncio.to_thread(do)
            return await complete(server, *asked)

        monkeypatch.setattr(client, method, interrupted)


def journaled(root: Path) -> list[tuple[int, str, int, str]]:
    """Return the slot and source of each completion in a node's journal."""
    with sqlite3.connect(NodeFiles(root).journal) as db:
        return db.execute("SELECT round, question, idx, source FROM completions").fetchall()


def play_whole_weights(model: Path, server: Server, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Play rounds with a server that gets all weights each time, and is restarted between a push and a request."""

    def restart() -> None:
        server.stop(signal.SIGKILL)
        server.start()

    client: Any = INFERENCE_ENGINES[server.engine]
    Interrupted(monkeypatch, RESTARTED * GROUPS + 2, restart, server.engine, "complete_whole")
    events, reloads, reload = Events(), [], client.reload

    async def counted(its: Any, name: str, folder: str) -> None:
        reloads.append(name)
        await reload(its, name, folder)

    monkeypatch.setattr(client, "reload", counted)
    config = configure(model, server.url, engine=server.engine, whole=True, offload={"fallback": []})
    assert GRPORunner(config, NodeFiles(root), events, make_tasks=lambda *_: ChanceRewards()).run().round == ROUNDS
    rounds = events.of("rollouts")
    assert [(each["source"], each["count"]) for each in rounds] == [("policy", GROUPS * SIZE)] * ROUNDS
    lags = [each["lag"] for each in rounds]
    assert 0 <= lags.pop(RESTARTED) <= 1, "what is asked for again gets the newest weights"
    assert lags == [0] + [1] * (ROUNDS - 2)
    bad = {"policy_other", "policy_push"}  # the restart is an outage, which is reported, too
    assert [each["message"] for each in events.of("warning") if each["code"] in bad] == []
    (served,) = [each["message"] for each in events.of("note") if each["code"] == "policy_served"]
    assert len(reloads) > len(set(reloads)) > ROUNDS // 2, "after the restart, the same weights were loaded again"
    slots = journaled(root)
    assert len(slots) == len({slot[:3] for slot in slots}) == ROUNDS * GROUPS * SIZE
    print(f"\n{served}\n{len(reloads)} reloads")
