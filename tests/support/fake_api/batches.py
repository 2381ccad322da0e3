"""The part of OpenAI's Batch API that a client needs: files, batches and results."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.fake_api.answers import Complaint, complaint, generate
from tests.support.fake_api.ask import Ask, digest
from tests.support.fake_api.faults import Fault, Trouble
from tests.support.fake_api.ledger import Outcome
from tests.support.fake_api.state import State
from tests.support.fake_api.wire import Sending, complain, refuse, send_json

_MISSING = Complaint(404, "No such object", param="id")
_OVER = ("completed", "failed", "expired", "cancelled")


@dataclass(slots=True)
class Batch:
    """A batch of requests."""

    id: str
    key: str | None
    input_file_id: str
    metadata: dict[str, str] | None
    due: float | None
    """Unix time at which it is done; None: when ``finish`` is called."""
    created: int = field(default_factory=lambda: int(time.time()))
    status: str = "in_progress"
    output_file_id: str | None = None
    error_file_id: str | None = None
    counts: dict[str, int] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    ended: int | None = None

    def finish(self, state: State, status: str = "completed", lines: int | None = None) -> None:
        """Answer all lines, or the first ``lines`` of them, and end with ``status``."""
        if self.status in _OVER:
            return
        try:
            asked = _read_lines(state.files[self.input_file_id])
        except ValueError as error:
            self.fail("invalid_json_line", str(error))
            return
        if status == "failed":
            self.fail("server_error", "The batch failed.")
            return
        self.status, self.ended = status, int(time.time())
        done = len(asked) if status == "completed" else lines or 0
        answers = [_answer(state, self, line) for line in asked[:done]]
        good = [line for line in answers if line["response"]["status_code"] == 200]
        bad = [line for line in answers if line["response"]["status_code"] != 200]
        bad += [_undone(line, status) for line in asked[done:]]
        # OpenAI guarantees no order.
        self.output_file_id = _store(state, "output", good[::-1])
        self.error_file_id = _store(state, "error", bad)
        self.counts = {"total": len(asked), "completed": len(good), "failed": len(bad)}

    def fail(self, code: str, message: str) -> None:
        """End without any answers."""
        self.status, self.ended = "failed", int(time.time())
        self.errors = [{"code": code, "message": message, "line": None, "param": None}]

    def to_json(self) -> dict[str, Any]:
        """Return OpenAI's batch object."""
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "input_file_id": self.input_file_id,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "status": self.status,
            "created_at": self.created,
            "expires_at": self.created + 86400,
            f"{self.status}_at": self.ended or self.created,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "request_counts": self.counts or {"total": 0, "completed": 0, "failed": 0},
            "metadata": self.metadata,
        }


def _read_lines(data: bytes) -> list[dict[str, Any]]:
    """Return a batch's lines. Raises ValueError if OpenAI would not start the batch."""
    lines = [json.loads(line) for line in data.splitlines() if line.strip()]
    names = [line.get("custom_id") for line in lines]
    if not lines or None in names or len(set(names)) < len(names):
        raise ValueError("every line needs a custom_id of its own")
    return lines


def _answer(state: State, batch: Batch, line: dict[str, Any]) -> dict[str, Any]:
    """Return the result of one line, and record it as a separate request."""
    body = line["body"]
    mark = digest(body.get("messages", []))
    ask = Ask(body, batch.key, mark, state.attempt(mark))
    fault: Fault | None = state.options.line_faults.get(line["custom_id"])
    entry = state.ledger.open(
        "batch_line", key=batch.key, batch=batch.id, model=ask.model, messages=ask.messages, digest=mark, n=ask.n
    )
    entry.fault = fault
    if wrong := complaint(state, ask) or (complain(Trouble(fault), ask) if fault else None):
        state.ledger.close(entry, Outcome.REFUSED, wrong.status)
        result = wrong.status, wrong.body
    else:
        reply = generate(state, ask, entry.id, fault)
        entry.bill(reply.texts, reply.prompt_tokens, reply.completion_tokens)
        state.ledger.close(entry, Outcome.DELIVERED, 200)
        result = 200, reply.body
    response = {"status_code": result[0], "request_id": entry.id, "body": result[1]}
    return {"id": f"batch_{entry.id}", "custom_id": line["custom_id"], "response": response, "error": None}


def _undone(line: dict[str, Any], status: str) -> dict[str, Any]:
    error = {"code": f"batch_{status}", "message": f"This request was not executed: the batch is {status}."}
    return {"id": f"batch_{line['custom_id']}", "custom_id": line["custom_id"], "response": None, "error": error}


def _store(state: State, kind: str, lines: list[dict[str, Any]]) -> str | None:
    """Store lines as a file; without lines, there is no file."""
    if not lines:
        return None
    name = f"file-{kind}-{len(state.files)}"
    state.files[name] = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return name


def _key(request: web.Request) -> str | None:
    return request.headers.get("Authorization", "").removeprefix("Bearer ") or None


async def upload(state: State, request: web.Request) -> Sending:
    """Store a file uploaded as a form."""
    form = await request.post()
    file = form.get("file")
    if form.get("purpose") != "batch" or not isinstance(file, web.FileField):
        return refuse(Complaint(400, "A file with purpose 'batch' is needed", param="file"))
    name, data = f"file-input-{len(state.files)}", file.file.read()
    state.files[name] = data
    answer = {"id": name, "object": "file", "bytes": len(data), "created_at": int(time.time())}
    return send_json({**answer, "filename": file.filename, "purpose": "batch", "status": "processed"})


async def content(state: State, request: web.Request) -> Sending:
    """Return a file."""
    data = state.files.get(request.match_info["id"])
    return refuse(_MISSING) if data is None else Sending(200, data, Outcome.DELIVERED)


async def create(state: State, request: web.Request) -> Sending:
    """Start a batch."""
    body = await request.json()
    if body.get("input_file_id") not in state.files:
        return refuse(Complaint(400, "No such file", param="input_file_id"))
    if body.get("endpoint") != "/v1/chat/completions" or body.get("completion_window") != "24h":
        return refuse(Complaint(400, "Only chat completions within 24h are served", param="endpoint"))
    delay = state.options.batch_delay
    due = None if delay is None else time.time() + delay
    batch = Batch(f"batch_{next(state.batch_numbers)}", _key(request), body["input_file_id"], body.get("metadata"), due)
    queue = state.options.batch_queue
    if queue is not None and sum(each.status not in _OVER for each in state.batches.values()) >= queue:
        batch.fail("token_limit_exceeded", "Enqueued token limit reached for test-model. Please try again later.")
    state.batches[batch.id] = batch
    return send_json(batch.to_json())


def _settle(state: State, batch: Batch) -> Batch:
    """Finish a batch that is due."""
    if batch.due is not None and time.time() >= batch.due:
        batch.finish(state)
    return batch


async def retrieve(state: State, request: web.Request) -> Sending:
    """Return a batch's progress."""
    batch = state.batches.get(request.match_info["id"])
    return refuse(_MISSING) if batch is None else send_json(_settle(state, batch).to_json())


async def listing(state: State, request: web.Request) -> Sending:
    """Return a page of batches, the latest first."""
    rows = [_settle(state, batch).to_json() for batch in reversed(state.batches.values())]
    names = [row["id"] for row in rows]
    after, limit = request.query.get("after"), int(request.query.get("limit", 20))
    first = 0 if after is None else names.index(after) + 1
    page = rows[first : first + limit]
    return send_json({"object": "list", "data": page, "has_more": first + limit < len(rows)})


async def cancel(state: State, request: web.Request) -> Sending:
    """Cancel a batch."""
    batch = state.batches.get(request.match_info["id"])
    if batch is None:
        return refuse(_MISSING)
    _settle(state, batch).finish(state, "cancelled")
    return send_json(batch.to_json())
