"""The Batch API of one service, on the official SDK."""

from __future__ import annotations

import json
from typing import Any

from hivemind_exp.offload.api.batch import TAG, URL, WINDOW, Report, is_ours, read_report
from hivemind_exp.offload.api.chat import FaultKind, RequestFailed
from hivemind_exp.offload.api.client import LARGEST_ANSWER, ChatClient, read_body

LARGEST_FILE = 512 * 2**20
"""Bytes of a file of results that are read."""
_PAGE = 100
_PAGES = 50
"""Pages of a listing that are looked through: 5000 batches since one that was created a moment ago."""
_FILE_S = 600.0
_CLOCKS_S = 86400.0
"""How far the service's clock may be from ours."""


class BatchClient:
    """Uploads, begins, finds and fetches batches. For the loop of its ``ChatClient``, which closes the connections."""

    def __init__(self, chat: ChatClient, *, seconds: float) -> None:
        """``seconds``: what one request may take, files apart."""
        self._chat = chat
        self._seconds = seconds

    async def upload(self, data: bytes, name: str) -> str:
        async with self._chat.sdk(max(self._seconds, _FILE_S)) as sdk:
            asked = {"file": (name, data, "application/jsonl"), "purpose": "batch"}
            async with sdk.files.with_streaming_response.create(**asked) as response:
                table = await self._json(response)
        found = table.get("id")
        if not isinstance(found, str) or not found:
            raise RequestFailed(FaultKind.BROKEN, "the answer to an upload names no file", billed=True)
        return found

    async def create(self, file: str, tag: str) -> Report:
        async with self._chat.sdk(self._seconds) as sdk:
            asked = {"input_file_id": file, "endpoint": URL, "completion_window": WINDOW, "metadata": {TAG: tag}}
            async with sdk.batches.with_streaming_response.create(**asked) as response:
                return read_report(await self._json(response))

    async def find(self, tag: str, file: str, since: float) -> Report | None:
        after: dict[str, str] = {}
        for _ in range(_PAGES):
            async with self._chat.sdk(self._seconds) as sdk:
                async with sdk.batches.with_streaming_response.list(limit=_PAGE, **after) as response:
                    page = await self._json(response)
            rows = page.get("data")
            if not isinstance(rows, list):
                raise RequestFailed(FaultKind.BROKEN, "the answer is no list of batches")
            for row in rows:
                if is_ours(row, tag, file):
                    return read_report(row)
            # The latest come first.
            if not rows or not page.get("has_more") or _created(rows[-1]) < since - _CLOCKS_S:
                return None
            after = {"after": read_report(rows[-1]).id}
        return None

    async def look(self, id: str) -> Report:
        async with self._chat.sdk(self._seconds) as sdk:
            async with sdk.batches.with_streaming_response.retrieve(id) as response:
                return read_report(await self._json(response))

    async def fetch(self, file: str) -> bytes:
        async with self._chat.sdk(max(self._seconds, _FILE_S)) as sdk:
            async with sdk.files.with_streaming_response.content(file) as response:
                return self._chat.without_key(await read_body(response, LARGEST_FILE))

    async def _json(self, response: Any) -> dict[str, Any]:
        try:
            table = json.loads(self._chat.without_key(await read_body(response, LARGEST_ANSWER)))
        except (ValueError, RecursionError):
            table = None
        if not isinstance(table, dict):
            raise RequestFailed(FaultKind.BROKEN, "the answer is no JSON object", billed=True)
        return table


def _created(row: Any) -> float:
    value = row.get("created_at") if isinstance(row, dict) else None
    return float(value) if isinstance(value, int) else 0.0
