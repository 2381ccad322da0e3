"""Test the fake Batch API through the official SDK."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

from tests.support.fake_api.ask import digest
from tests.support.fake_api.client import PROMPT, connect
from tests.support.fake_api.faults import Fault
from tests.support.fake_api.server import ApiServer

BatchJob = Callable[[AsyncOpenAI, str], Awaitable[None]]


def run_batch(server: ApiServer, job: BatchJob, lines: int = 3) -> None:
    """Upload some lines, start a batch, and run the rest of a test with its id."""
    data = "\n".join(
        json.dumps(
            {
                "custom_id": f"line-{i}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": "test-model", "messages": PROMPT, "n": 2},
            }
        )
        for i in range(lines)
    )

    async def whole() -> None:
        async with connect(server) as client:
            file = await client.files.create(file=("lines.jsonl", data.encode()), purpose="batch")
            batch = await client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"round": "3"},
            )
            assert batch.status == "in_progress"
            await job(client, batch.id)

    asyncio.run(whole())


async def read(client: AsyncOpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """Return the lines of a file."""
    assert file_id
    return [json.loads(line) for line in (await client.files.content(file_id)).text.splitlines()]


def test_a_batch_comes_back_in_another_order_with_an_error_file(server: ApiServer) -> None:
    server.set(line_faults={"line-1": Fault.SERVER_ERROR})

    async def job(client: AsyncOpenAI, batch_id: str) -> None:
        batch = await client.batches.retrieve(batch_id)
        assert (batch.status, batch.metadata) == ("completed", {"round": "3"})
        assert batch.request_counts.model_dump() == {"total": 3, "completed": 2, "failed": 1}
        good, bad = await read(client, batch.output_file_id), await read(client, batch.error_file_id)
        assert [line["custom_id"] for line in good] == ["line-2", "line-0"]
        assert len(ChatCompletion.model_validate(good[0]["response"]["body"]).choices) == 2
        assert [(line["custom_id"], line["response"]["status_code"]) for line in bad] == [("line-1", 500)]
        assert [row.id async for row in client.batches.list()] == [batch_id]

    run_batch(server, job)
    lines = server.ledger.where(lambda entry: entry.endpoint == "batch_line")
    assert lines.outcomes() == {"delivered": 2, "refused": 1}
    assert len(lines.texts()[digest(PROMPT)]) == 4
    assert server.usd(2e6, 2e6) == lines.prompt_tokens + lines.completion_tokens


@pytest.mark.parametrize("status", ["completed", "failed", "expired", "cancelled"])
def test_a_batch_ends_on_command(server: ApiServer, status: str) -> None:
    server.set(batch_delay=None)

    async def job(client: AsyncOpenAI, batch_id: str) -> None:
        assert (await client.batches.retrieve(batch_id)).status == "in_progress"
        server.finish_batches(status, lines=1)
        batch = await client.batches.retrieve(batch_id)
        assert batch.status == status
        assert bool(batch.errors) == (status == "failed")
        done = {"completed": 3, "failed": 0}.get(status, 1)
        assert batch.request_counts.completed == done
        if status in ("expired", "cancelled"):
            codes = [line["error"]["code"] for line in await read(client, batch.error_file_id)]
            assert codes == [f"batch_{status}"] * 2
        assert (await client.batches.cancel(batch_id)).status == status

    run_batch(server, job)
