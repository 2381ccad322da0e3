"""The Batch API of one service, on the official SDK."""

import json
from collections.abc import Callable
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
    """Uploads, begins, finds and fetches batches. For the loop of its ``ChatClient``, which closes the connections.

    Every method raises ``RequestFailed``.
    """

    def __init__(self, chat: ChatClient, *, seconds: float) -> None:
        """``seconds``: what one request may take, files apart."""
        self._chat = chat
        self._seconds = seconds

    async def upload(self, data: bytes, name: str) -> str:
        """Give a file of lines; return its id. Costs nothing."""
        asked = {"file": (name, data, "application/jsonl"), "purpose": "batch"}
        table = await self._table(lambda sdk: sdk.files.with_streaming_response.create(**asked), _FILE_S)
        found = table.get("id")
        if not isinstance(found, str) or not found:
            raise RequestFailed(FaultKind.BROKEN, "the answer to an upload names no file", billed=True)
        return found

    async def create(self, file: str, tag: str) -> Report:
        """Begin a batch. From here on it costs."""
        asked = {"input_file_id": file, "endpoint": URL, "completion_window": WINDOW, "metadata": {TAG: tag}}
        return read_report(await self._table(lambda sdk: sdk.batches.with_streaming_response.create(**asked)))

    async def find(self, tag: str, file: str, since: float) -> Report | None:
        """Return the batch with our tag or our file among those created since a time (Unix seconds); None: no such."""
        asked: dict[str, Any] = {"limit": _PAGE}
        for _ in range(_PAGES):
            page = await self._table(lambda sdk: sdk.batches.with_streaming_response.list(**asked))
            rows = page.get("data")
            if not isinstance(rows, list):
                raise RequestFailed(FaultKind.BROKEN, "the answer is no list of batches")
            for row in rows:
                if is_ours(row, tag, file):
                    return read_report(row)
            # The latest come first.
            if not rows or not page.get("has_more") or _created(rows[-1]) < since - _CLOCKS_S:
                return None
            asked["after"] = read_report(rows[-1]).id
        return None

    async def look(self, id: str) -> Report:
        """Return how far a batch is."""
        return read_report(await self._table(lambda sdk: sdk.batches.with_streaming_response.retrieve(id)))

    async def fetch(self, file: str) -> bytes:
        """Return a file's bytes; a monstrous file is cut."""
        return await self._content(lambda sdk: sdk.files.with_streaming_response.content(file), LARGEST_FILE, _FILE_S)

    async def _content(self, ask: Callable[[Any], Any], most: int, seconds: float) -> bytes:
        async with self._chat.sdk(max(self._seconds, seconds)) as sdk, ask(sdk) as response:
            return self._chat.without_key(await read_body(response, most))

    async def _table(self, ask: Callable[[Any], Any], seconds: float = 0.0) -> dict[str, Any]:
        try:
            table = json.loads(await self._content(ask, LARGEST_ANSWER, seconds))
        except (ValueError, RecursionError):
            table = None
        if not isinstance(table, dict):
            raise RequestFailed(FaultKind.BROKEN, "the answer is no JSON object", billed=True)
        return table


def _created(row: Any) -> float:
    value = row.get("created_at") if isinstance(row, dict) else None
    return float(value) if isinstance(value, int) else 0.0
