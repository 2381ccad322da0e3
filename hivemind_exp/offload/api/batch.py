"""The Batch API: the lines of a batch, what a service says of one, what its files hold; and the API's client.

What comes from a service is hostile until read, as in ``chat``.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hivemind_exp.offload.api.chat import (
    LARGEST_ANSWER,
    ChatAnswer,
    ChatClient,
    FaultKind,
    RequestFailed,
    broken,
    read_answer,
    read_body,
    refusal,
    short,
)

URL = "/v1/chat/completions"
WINDOW = "24h"
"""What a service may take; no other window exists."""
TAG = "swarmctl_batch"
"""Key of a batch's metadata that holds our own name for it."""
COMPLETED = "completed"
OVER = frozenset({COMPLETED, "failed", "expired", "cancelled"})
"""States of a batch that nothing follows."""
_LONGEST_NAME = 200
_MOST_LINES = 50_000
_MOST_BYTES = 100 * 2**20
"""Of a batch's file and of what may come back together: half of what a service takes, and what memory bears."""


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch: places of one group."""

    round: int
    stage: str
    question: str
    """Digest of the question."""
    places: tuple[int, ...]
    version: int
    """Optimizer steps behind the node's weights when it was ordered."""

    @property
    def name(self) -> str:
        """The ``custom_id``: no other line of the same batch has the same first place."""
        return f"{self.round}/{self.stage}/{self.question}/{self.places[0]}x{len(self.places)}"


@dataclass(frozen=True, slots=True)
class Request:
    """A line on its way out."""

    line: Line
    data: bytes
    """As the file has it."""
    usd: float
    """What it may cost at most."""
    size: int
    """Bytes, with those of its answer."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a service says of a batch."""

    id: str
    status: str
    files: tuple[str, ...] = ()
    """Of its results: the answers, then the errors."""
    done: int | None = None
    """Requests that were answered; None where it does not say."""
    failure: RequestFailed | None = None
    """Why the service refused the whole batch, of which it then did nothing."""


def encode_line(line: Line, body: dict[str, Any]) -> bytes:
    return json.dumps({"custom_id": line.name, "method": "POST", "url": URL, "body": body}).encode() + b"\n"


def parcels(requests: Iterable[Request]) -> Iterator[list[Request]]:
    """Cut requests into batches that a service takes and whose results fit in memory."""
    parcel: list[Request] = []
    size = 0
    for request in requests:
        if parcel and (len(parcel) >= _MOST_LINES or size + request.size > _MOST_BYTES):
            yield parcel
            parcel, size = [], 0
        parcel.append(request)
        size += request.size
    if parcel:
        yield parcel


def read_report(table: Any) -> Report:
    """Read a batch object. Raises ``RequestFailed`` where it is none."""
    if not isinstance(table, dict) or not _is_name(table.get("id")) or not _is_name(table.get("status")):
        raise broken("the answer is no batch")
    files = (table.get("output_file_id"), table.get("error_file_id"))
    return Report(
        id=table["id"],
        status=table["status"],
        files=tuple(file for file in files if isinstance(file, str) and _is_name(file)),
        done=_done(table["status"], table.get("request_counts")),
        failure=_failure(table.get("errors")) if table["status"] == "failed" else None,
    )


def is_ours(table: Any, tag: str, file: str) -> bool:
    """Whether a batch of a listing is the one with our tag; some services keep no metadata, and all keep the file."""
    if not isinstance(table, dict):
        return False
    metadata = table.get("metadata")
    return (isinstance(metadata, dict) and metadata.get(TAG) == tag) or table.get("input_file_id") == file


def read_results(content: bytes) -> tuple[dict[str, ChatAnswer | RequestFailed], int]:
    """Return what a file of results holds, by ``custom_id``, and the number of lines that cannot be read."""
    found: dict[str, ChatAnswer | RequestFailed] = {}
    spoilt = 0
    for raw in content.splitlines():
        if not raw.strip():
            continue
        try:
            table = json.loads(raw)
            name = table["custom_id"]
            if not isinstance(name, str):
                raise TypeError
        except (ValueError, KeyError, TypeError, RecursionError):
            spoilt += 1
            continue
        # The first counts: a second line for one request would be billed once all the same.
        found.setdefault(name, _result(table.get("response"), table.get("error")))
    return found, spoilt


def unanswered(report: Report, results: Iterable[ChatAnswer | RequestFailed]) -> RequestFailed:
    """Return what it means that the files say nothing of a request."""
    if report.failure is not None:
        return report.failure
    answers = sum(isinstance(result, ChatAnswer) or result.billed for result in results)
    # Where as many answers were found as there are, the service did nothing for the rest.
    billed = report.done is None or answers < report.done
    return RequestFailed(
        FaultKind.BROKEN, f"the files of the batch, which is {report.status}, do not mention it", billed=billed
    )


def _result(response: Any, error: Any) -> ChatAnswer | RequestFailed:
    if not isinstance(response, dict):
        said = error.get("message") or error.get("code") if isinstance(error, dict) else None
        return RequestFailed(FaultKind.BUSY, f"not answered: {short(said)}")
    status, body = response.get("status_code"), json.dumps(response.get("body")).encode()
    try:
        if status == 200:
            return read_answer(body, {})
        return refusal(status if isinstance(status, int) else 500, body, {})
    except RequestFailed as fault:
        return fault


def _done(status: str, counts: Any) -> int | None:
    done = counts.get("completed") if isinstance(counts, dict) else None
    if not isinstance(done, int) or (status == COMPLETED and counts.get("total") == 0):
        return None
    return done


def _failure(errors: Any) -> RequestFailed:
    """Return why a batch was refused as a whole, as the fault that a single request would have met with."""
    rows = errors.get("data") if isinstance(errors, dict) else None
    first = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
    code, said = str(first.get("code") or ""), str(first.get("message") or "no reason given")
    if "limit" in code or "quota" in code:
        status = 429
    else:
        status = 500 if not code or "server" in code or "internal" in code else 400
    meant = refusal(status, json.dumps({"error": {"code": code, "message": said}}).encode(), {})
    return RequestFailed(meant.trouble, short(said))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isascii()


LARGEST_FILE = 512 * 2**20
"""Bytes of a file of results that are read."""
_PAGE = 100
_PAGES = 50
"""Pages of a listing that are looked through: 5000 batches since one that was created a moment ago."""
_FILE_S = 600.0
_CLOCKS_S = 86400.0
"""How far the service's clock may be from ours."""


@dataclass(frozen=True, slots=True)
class BatchClient:
    """Uploads, begins, finds and fetches batches. For the loop of its ``ChatClient``, which closes the connections.

    Every method raises ``RequestFailed``.
    """

    _chat: ChatClient
    seconds: float
    """What one request may take, files apart."""

    async def upload(self, data: bytes, name: str) -> str:
        """Give a file of lines; return its id. Costs nothing."""
        asked = {"file": (name, data, "application/jsonl"), "purpose": "batch"}
        table = await self._table(lambda sdk: sdk.files.with_streaming_response.create(**asked), _FILE_S)
        found = table.get("id")
        if not isinstance(found, str) or not found:
            raise broken("the answer to an upload names no file")
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
        return read_report(await self._table(lambda sdk: sdk.batches.with_streaming_response.retrieve(id)))

    async def fetch(self, file: str) -> bytes:
        """Return a file's bytes; a monstrous file is cut."""
        return await self._content(lambda sdk: sdk.files.with_streaming_response.content(file), LARGEST_FILE, _FILE_S)

    async def _content(self, ask: Callable[[Any], Any], most: int, seconds: float) -> bytes:
        async with self._chat.sdk(max(self.seconds, seconds)) as sdk, ask(sdk) as response:
            return self._chat.without_key(await read_body(response, most))

    async def _table(self, ask: Callable[[Any], Any], seconds: float = 0.0) -> dict[str, Any]:
        try:
            table = json.loads(await self._content(ask, LARGEST_ANSWER, seconds))
        except (ValueError, RecursionError):
            table = None
        if not isinstance(table, dict):
            raise broken("the answer is no JSON object")
        return table


def _created(row: Any) -> float:
    value = row.get("created_at") if isinstance(row, dict) else None
    return float(value) if isinstance(value, int) else 0.0
