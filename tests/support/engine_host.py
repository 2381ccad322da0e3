"""Run the engine's process against the misbehaving server, without a trainer."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from hivemind_exp.config import Config, charter_id
from hivemind_exp.journal.journal import Journal
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.process.client import OffloadClient, open_offload
from hivemind_exp.rollouts.types import CompletionRequest
from hivemind_exp.secrets import Secrets
from hivemind_exp.stop import StopFlag
from swarmctl.nodes.frozen import ENGINE
from tests.support.engine_rig import PRICE_IN, PRICE_OUT, accounts, real_chats, texts
from tests.support.fake_api.server import ApiServer
from tests.support.forked_engines import ForkedEngine
from tests.support.recorded_events import Events

KEY = "sk-0f-the-Hosted-engine"


def configure(base_url: str, *, box: dict[str, Any] | None = None, **offload: Any) -> Config:
    """Return the configuration of a node that uses one custom service."""
    limits = {"usd": "unlimited"} | offload.pop("limits", {})
    return Config.model_validate(
        {
            "node": {"name": "hosted"},
            "tasks": ["spell_backward"],
            "generation": {"max_completion_tokens": 64},
            "offload": {
                "provider": "box",
                "fallback": [],
                "prices": {"box": {"input": PRICE_IN, "output": PRICE_OUT}},
                "limits": limits,
                **offload,
            },
            "providers": {"box": {"base_url": base_url, "model": "test-model", "group": "n", **(box or {})}},
        }
    )


@dataclass(frozen=True, slots=True)
class Hosted:
    """An engine in a separate process, and its results."""

    offload: OffloadClient
    events: Events
    files: NodeFiles
    stop: StopFlag

    @property
    def pid(self) -> int:
        assert self.offload.pid is not None
        return self.offload.pid

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)

    def run(self, orders: Sequence[CompletionRequest]) -> None:
        """Submit orders and wait until they are filled."""
        self.offload.submit(orders)
        for round_ in sorted({order.round for order in orders}):
            self.offload.wait(round_)

    def texts(self) -> dict[str, dict[int, str]]:
        """Return the texts in the journal, by question and slot."""
        return texts(self.files.journal)

    def accounts(self) -> dict[str, float]:
        """Return dollars by the state of the requests: settled, kept."""
        return accounts(self.files.ledger)


@contextmanager
def hosted(
    root: Path,
    config: Config,
    *,
    key: str | None = None,
    secrets: Mapping[str, str] | None = None,
    probed: bool = True,
) -> Iterator[Hosted]:
    """Run an engine in a separate process, as a node does. ``key``: of ``box``; ``secrets``: of all providers."""
    root.mkdir(parents=True, exist_ok=True)
    files, events, stop = NodeFiles(root), Events(), StopFlag()
    Journal(files.journal, charter_id(config)).close()
    known = Secrets(secrets or ({} if key is None else {"box": key}))
    offload = open_offload(config, files, known, events, stop)
    assert offload is not None
    try:
        if probed:
            offload.wait_for_probe()
        yield Hosted(offload, events, files, stop)
    finally:
        offload.close()


def prompts(server: ApiServer) -> list[str]:
    """Return the requests so far, without test requests."""
    return [entry.messages[-1]["content"] for entry in real_chats(server)]


def engines() -> list[psutil.Process]:
    """Return the running engines that this process has started."""
    started = [child for child in psutil.Process().children() if ENGINE in child.cmdline()]
    return started + [psutil.Process(engine.pid) for engine in ForkedEngine.running if engine.poll() is None]
