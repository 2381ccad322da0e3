"""A client of OpenAI's Batch API: sends files of requests, and parses their status and results.

As in ``chat``, everything that a service sends is untrusted.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hivemind_exp.offload.api.chat import LARGEST_ANSWER, ChatAnswer, ChatClient, read_answer, read_body
from hivemind_exp.offload.api.faults import FaultKind, RequestFailed, broken, refusal, short

URL = "/v1/chat/completions"
WINDOW = "24h"
"""Time that a service may take for a batch; no other value exists."""
TAG = "swarmctl_batch"
"""Key in a batch's metadata for our own name of the batch."""
COMPLETED = "completed"
OVER = frozenset({COMPLETED, "failed", "expired", "cancelled"})
"""Final states of a batch."""
_LONGEST_NAME = 200
Results = dict[str, ChatAnswer | RequestFailed]
"""The answers in a result file, by ``custom_id``."""
_MOST_LINES = 50_000
_MOST_BYTES = 100 * 2**20
"""Limit on a batch's file plus its expected results: half of what services accept, and small enough for memory."""


@dataclass(frozen=True, slots=True)
class Line:
    """One request of a batch: slots of one group."""

    round: int
    stage: str
    question: str
    """Digest of the question."""
    places: tuple[int, ...]
    """The slots to fill."""
    version: int
    """The node's optimizer steps when the completions were requested."""

    @property
    def name(self) -> str:
        """The ``custom_id``. It is unique because no two lines of a batch have the same first slot of a group."""
        return f"{self.round}/{self.stage}/{self.question}/{self.places[0]}x{len(self.places)}"


@dataclass(frozen=True, slots=True)
class Request:
    """A line that is about to be sent."""

    line: Line
    data: bytes
    """The line in the batch's file."""
    usd: float
    """The most it can cost."""
    size: int
    """Bytes of the request and its expected answer."""


@dataclass(frozen=True, slots=True)
class Report:
    """A batch's status, as the service reports it."""

    id: str
    status: str
    files: tuple[str, ...] = ()
    """Ids of its result files: answers, then errors."""
    done: int | None = None
    """Number of answered requests; None if the service does not say."""
    failure: RequestFailed | None = None
    """Why the service rejected the whole batch; it then did no work for it."""


def encode_line(line: Line, body: dict[str, Any]) -> bytes:
    """Return a request as one line of a batch's file, with its line break. ``body``: the request's parameters."""
    return json.dumps({"custom_id": line.name, "method": "POST", "url": URL, "body": body}).encode() + b"\n"


def parcels(requests: Iterable[Request]) -> Iterator[list[Request]]:
    """Split requests into batches that a service accepts and whose results fit in memory."""
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
    """Parse a batch object. Raises ``RequestFailed`` if it is not one."""
    if not isinstance(table, dict) or not _is_name(table.get("id")) or not _is_name(table.get("status")):
        raise broken("the response is not a batch")
    files = (table.get("output_file_id"), table.get("error_file_id"))
    return Report(
        id=table["id"],
        status=table["status"],
        files=tuple(file for file in files if isinstance(file, str) and _is_name(file)),
        done=_done(table["status"], table.get("request_counts")),
        failure=_failure(table.get("errors")) if table["status"] == "failed" else None,
    )


def is_ours(table: Any, tag: str, file: str) -> bool:
    """Whether a listed batch is ours, by tag or by file: some services keep no metadata, but all keep the file."""
    if not isinstance(table, dict):
        return False
    metadata = table.get("metadata")
    return (isinstance(metadata, dict) and metadata.get(TAG) == tag) or table.get("input_file_id") == file


def read_results(content: bytes) -> tuple[Results, int]:
    """Parse a result file: return its results by ``custom_id``, and the number of unreadable lines."""
    found: Results = {}
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
        # Keep the first line for a request: even with two, it is billed only once.
        found.setdefault(name, _result(table.get("response"), table.get("error")))
    return found, spoilt


def unanswered(report: Report, results: Iterable[ChatAnswer | RequestFailed]) -> RequestFailed:
    """Return the failure of a request that the result files don't mention."""
    if report.failure is not None:
        return report.failure
    answers = sum(isinstance(result, ChatAnswer) or (result.billed and result.status is None) for result in results)
    # If the files hold as many answers as the service reports, it did no work for the other requests.
    billed = report.done is None or answers < report.done
    return RequestFailed(
        FaultKind.BROKEN, f"the result files of the batch ({report.status}) do not mention it", billed=billed
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
    """Return why a whole batch was rejected, as the failure that a single request would have had."""
    rows = errors.get("data") if isinstance(errors, dict) else None
    first = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
    code, said = str(first.get("code") or ""), first.get("message")
    if "limit" in code or "quota" in code:
        status = 429
    else:
        status = 500 if not code or "server" in code or "internal" in code else 400
    meant = refusal(status, json.dumps({"error": {"code": code, "message": said}}).encode(), {})
    return RequestFailed(meant.trouble, short(said))


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isascii()


LARGEST_FILE = 512 * 2**20
"""Largest result file that is read, in bytes."""
_PAGE = 100
_PAGES = 50
"""Pages of a listing to search. With ``_PAGE``, that is the newest 5000 batches."""
_FILE_S = 600.0
"""Time limit for transferring a file, in seconds."""
_CLOCKS_S = 86400.0
"""Largest difference allowed between the service's clock and ours, in seconds."""


@dataclass(frozen=True, slots=True)
class BatchClient:
    """Uploads, starts, finds and fetches batches.

    Use it in the event loop of its ``ChatClient``, which closes the connections. Every method raises ``RequestFailed``.
    """

    _chat: ChatClient
    seconds: float
    """Time limit of one request, except for file transfers."""

    async def upload(self, data: bytes, name: str) -> str:
        """Upload a file of lines and return its id. This costs nothing."""
        asked = {"file": (name, data, "application/jsonl"), "purpose": "batch"}
        table = await self._table(lambda sdk: sdk.files.with_streaming_response.create(**asked), _FILE_S)
        found = table.get("id")
        if not isinstance(found, str) or not found:
            raise broken("the response to an upload has no file id")
        return found

    async def create(self, file: str, tag: str) -> Report:
        """Start a batch. From here on it costs money."""
        asked = {"input_file_id": file, "endpoint": URL, "completion_window": WINDOW, "metadata": {TAG: tag}}
        return read_report(await self._table(lambda sdk: sdk.batches.with_streaming_response.create(**asked)))

    async def find(self, tag: str, file: str, since: float) -> Report | None:
        """Return the batch with our tag or file among those created after ``since`` (Unix seconds), or None."""
        asked: dict[str, Any] = {"limit": _PAGE}
        for _ in range(_PAGES):
            page = await self._table(lambda sdk: sdk.batches.with_streaming_response.list(**asked))
            rows = page.get("data")
            if not isinstance(rows, list):
                raise RequestFailed(FaultKind.BROKEN, "the response is not a list of batches")
            for row in rows:
                if is_ours(row, tag, file):
                    return read_report(row)
            # The newest batches come first.
            if not rows or not page.get("has_more") or _created(rows[-1]) < since - _CLOCKS_S:
                return None
            asked["after"] = read_report(rows[-1]).id
        return None

    async def look(self, id: str) -> Report:
        return read_report(await self._table(lambda sdk: sdk.batches.with_streaming_response.retrieve(id)))

    async def fetch(self, file: str) -> bytes:
        """Return a file's bytes, cut off shortly after ``LARGEST_FILE``."""
        return await self._content(lambda sdk: sdk.files.with_streaming_response.content(file), LARGEST_FILE, _FILE_S)

    def joined_without_key(self, results: Results) -> Results:
        """As ``ChatClient.joined_without_key``, for each answer in a result file."""
        return {
            name: self._chat.joined_without_key(found) if isinstance(found, ChatAnswer) else found
            for name, found in results.items()
        }

    async def _content(self, ask: Callable[[Any], Any], most: int, seconds: float) -> bytes:
        async with self._chat.sdk(max(self.seconds, seconds)) as sdk, ask(sdk) as response:
            return self._chat.without_key(await read_body(response, most))

    async def _table(self, ask: Callable[[Any], Any], seconds: float = 0.0) -> dict[str, Any]:
        try:
            table = json.loads(await self._content(ask, LARGEST_ANSWER, seconds))
        except (ValueError, RecursionError):
            table = None
        if not isinstance(table, dict):
            raise broken("the response is not a JSON object")
        return table


def _created(row: Any) -> float:
    value = row.get("created_at") if isinstance(row, dict) else None
    return float(value) if isinstance(value, int) else 0.0
