"""What a setting of an API changes: requests, refusals, spending and pauses (see ``setting_effects``)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hivemind_exp.config import Config
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload import build as offload_build
from hivemind_exp.offload.api.chat import body
from hivemind_exp.offload.judge import judge_messages
from hivemind_exp.offload.ledger import Ledger, RequestKey
from hivemind_exp.offload.request_filler import ApiUse
from hivemind_exp.offload.rules import check_offload
from hivemind_exp.secrets import Secrets
from hivemind_exp.stop import StopFlag
from tests.support.nodes import Events
from tests.support.setting_effects import message


@contextmanager
def _captured(config: Config, root: Path) -> Iterator[tuple[dict[str, Any], Events]]:
    """Build the API side without starting it. Yields the engine's arguments and the events."""
    root.mkdir(exist_ok=True)
    given: dict[str, Any] = {}

    class ApiEngine:
        def __init__(self, uses: Sequence[ApiUse], **others: Any) -> None:
            (use,) = uses
            given.update(others, chain=use.make_chain(), sampling=use.sampling, local=use.on_limit_local)

        def start(self) -> None:
            pass

    events = Events()
    with patch.object(offload_build, "ApiEngine", ApiEngine):
        offload_build.make_offload(config, NodeFiles(root), Secrets({"openai": "k"}), events, StopFlag())
    try:
        yield given, events
    finally:
        given["ledger"].close()


def sent(config: Config, root: Path) -> str:
    """Return the first request (address, body and time limit), and the providers that are asked next."""
    with _captured(config, root) as (given, _):
        first = given["chain"][0]
        question = ({"role": "user", "content": "q"},)
        count = 2 if first.client.style.supports_n else 1
        asked_for = body(first.endpoint, first.client.style, question, count, given["sampling"], 0)
        others = [each and each.endpoint.label for each in given["chain"][1:]]
        return str((first.endpoint.base_url, asked_for, first.client._seconds, others))


def judged(config: Config, root: Path) -> tuple[str, Any]:
    """Return the first request to the judge, and what it is asked about a completion."""
    return sent(config, root), judge_messages(config.judge.instructions, "q", "a", "mark")


def announced(config: Config, root: Path) -> str:
    """Return the ``offload`` event, or why the settings are refused."""

    def event(config: Config, root: Path) -> Any:
        with _captured(config, root) as (_, events):
            return events.of("offload")

    return message(config, root, of=event)


def refused(config: Config, root: Path) -> str:
    """Return why the settings of ``[offload]`` are refused."""
    return message(config, root, of=lambda *_: check_offload(config))


def at_the_limit(config: Config, root: Path) -> bool:
    """Return whether the engine falls back to this machine when a cap is reached."""
    with _captured(config, root) as (given, _):
        return bool(given["local"])


def spent(config: Config, root: Path) -> str:
    """Return the cap's answer to a request that costs 2 USD."""
    root.mkdir(exist_ok=True)

    def reserve(*_: Any) -> Any:
        with closing(Ledger(root / "ledger.sqlite", config.offload.limits)) as ledger:
            ledger.reserve(RequestKey("s", "answer", 0, "q", "p", 0), 2.0)
            return ledger.spent

    return message(config, root, of=reserve)


def paced(config: Config, root: Path) -> tuple[int, list[float]]:
    """Return how many requests may be in flight after one answer, and the seconds to wait after 100,000 tokens."""

    async def pace() -> tuple[int, list[float]]:
        limiter, now = given["chain"][0].limiter, 1000.0
        with patch.object(asyncio.get_running_loop(), "time", lambda: now):
            permit = await limiter.acquire(lambda: 1e5)
            limiter.release(permit, {}, slow_down=False, used=1e5)
        return limiter.window, [each.wait(now) for each in limiter._paces.values()]

    with _captured(config, root) as (given, _):
        return asyncio.run(pace())
