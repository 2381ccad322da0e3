"""The official SDK as tests use it: without retries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from openai import AsyncOpenAI, DefaultAioHttpClient
from openai.types.chat import ChatCompletion

from tests.support.fake_api.ledger import Snapshot
from tests.support.fake_api.remote import RemoteServer
from tests.support.fake_api.server import ApiServer

PROMPT: list[Any] = [{"role": "user", "content": "What is 6 × 7?"}]


@asynccontextmanager
async def connect(server: ApiServer | RemoteServer, key: str = "k", timeout: float = 20) -> AsyncIterator[AsyncOpenAI]:
    """Yield a client that does not retry."""
    http = DefaultAioHttpClient()
    async with AsyncOpenAI(
        base_url=server.base_url, api_key=key, max_retries=0, timeout=timeout, http_client=http
    ) as client:
        yield client


def ask(server: ApiServer | RemoteServer, key: str = "k", timeout: float = 20, **parameters: Any) -> ChatCompletion:
    """Send one request over a new connection."""

    async def job() -> ChatCompletion:
        async with connect(server, key, timeout) as client:
            return await client.chat.completions.create(
                **{"model": "test-model", "messages": PROMPT, "n": 2} | parameters
            )

    return asyncio.run(job())


async def settled(server: ApiServer) -> Snapshot:
    """Return the ledger once the server has recorded how every request ended."""
    while server.ledger.outcomes()["pending"]:
        await asyncio.sleep(0.01)
    return server.ledger
