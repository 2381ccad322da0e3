"""Send answers and refusals, and simulate connection faults."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import struct
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.support.fake_api.answers import Complaint, unknown_field, unknown_model, unsupported
from tests.support.fake_api.ask import Ask
from tests.support.fake_api.faults import Fault, Trouble
from tests.support.fake_api.ledger import Entry, Ledger, Outcome

_PAGE = b"<!DOCTYPE html><html><head><title>%s</title></head><body><h1>%s</h1></body></html>"
_ENVOY = b"upstream connect error or disconnect/reset before headers. reset reason: connection termination"
_COMPLAINTS = {
    Fault.RATE_LIMIT: Complaint(429, "Rate limit reached. Try again later.", "rate_limit_exceeded", type="requests"),
    Fault.RATE_LIMIT_BARE: Complaint(429, "Too many requests.", "rate_limit_exceeded", type="requests"),
    Fault.QUOTA: Complaint(
        429,
        "You exceeded your current quota, please check your plan and billing details.",
        "insufficient_quota",
        type="insufficient_quota",
    ),
    Fault.NO_CREDIT: Complaint(402, "Insufficient Balance", "invalid_request_error", type="unknown_error"),
    Fault.UNAUTHORISED: Complaint(401, "Incorrect API key provided.", "invalid_api_key"),
    Fault.FORBIDDEN: Complaint(403, "Country, region, or territory not supported", "unsupported_country_region"),
    Fault.SMALL_CONTEXT: Complaint(
        400,
        "This model's maximum context length is 64 tokens. However, you requested 300 tokens (200 in the messages, 100 "
        "in the completion). Please reduce the length of the messages or completion.",
        type="BadRequestError",
    ),
    Fault.TIMEOUT: Complaint(408, "The request took too long.", type="timeout"),
    Fault.SERVER_ERROR: Complaint(500, "The server had an error while processing your request.", type="server_error"),
    Fault.UNAVAILABLE: Complaint(503, "The engine is currently overloaded.", type="server_error"),
    Fault.ERROR_OK: Complaint(200, "Provider returned error", "502", type="provider_error"),
}
UNAUTHORISED = _COMPLAINTS[Fault.UNAUTHORISED]


@dataclass(slots=True)
class Sending:
    """An outgoing answer."""

    status: int
    body: bytes
    outcome: Outcome
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


def send_json(body: Any, outcome: Outcome = Outcome.DELIVERED, status: int = 200) -> Sending:
    """Return a JSON answer."""
    return Sending(status, json.dumps(body).encode(), outcome)


def refuse(complaint: Complaint) -> Sending:
    """Return a refusal."""
    return send_json(complaint.body, Outcome.REFUSED, complaint.status)


def refuse_limit(window: str, seconds: float) -> Sending:
    """Return a rate limit's refusal, with the wait in whole seconds and in milliseconds."""
    if math.isinf(seconds):
        return refuse(Complaint(429, f"Request too large: {window} per minute", "rate_limit_exceeded", type=window))
    text = f"Rate limit reached on {window} per minute. Please try again in {seconds:.3f}s."
    sending = refuse(Complaint(429, text, "rate_limit_exceeded", type=window))
    sending.headers |= {"retry-after": f"{math.ceil(seconds)}", "retry-after-ms": f"{math.ceil(seconds * 1000)}"}
    return sending


def complain(trouble: Trouble, ask: Ask | None) -> Complaint | None:
    """Return a fault's error; None if the fault is not an error."""
    match trouble.kind:
        case Fault.UNKNOWN_MODEL:
            return unknown_model(ask.model if ask else "")
        case Fault.BAD_PARAMETER:
            return unsupported(trouble.parameter)
        case Fault.UNKNOWN_FIELD:
            return unknown_field(trouble.parameter)
    return _COMPLAINTS.get(trouble.kind)


def refuse_for(trouble: Trouble, ask: Ask | None) -> Sending | None:
    """Return a fault's refusal; None if the fault occurs later."""
    match trouble.kind:
        case Fault.HTML_OK:
            return Sending(200, _PAGE % (b"Welcome", b"Sign in"), Outcome.REFUSED, content_type="text/html")
        case Fault.HTML_GATEWAY:
            page = _PAGE % (b"502 Bad Gateway", b"Bad Gateway")
            return Sending(502, page, Outcome.REFUSED, content_type="text/html")
        case Fault.REDIRECT:
            return Sending(307, b"", Outcome.REFUSED, {"location": trouble.location})
        case Fault.CLOSE:
            return Sending(0, b"", Outcome.REFUSED)
    complaint = complain(trouble, ask)
    if complaint is None:
        return None
    sending = refuse(complaint)
    if trouble.kind is Fault.RATE_LIMIT or trouble.retry_after is not None:
        sending.headers["retry-after"] = trouble.retry_after or f"{trouble.delay:g}"
    return sending


async def _until_left() -> None:
    """Wait until the client disconnects, which cancels the handler."""
    await asyncio.Event().wait()


def _reset(request: web.Request) -> None:
    """Drop the connection with a TCP reset instead of an orderly end."""
    transport = request.transport
    if transport is not None:
        # Closing a socket with a linger time of zero sends the reset.
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()


async def _begin(request: web.Request, sending: Sending, body: bytes) -> web.StreamResponse:
    """Send the headers of an answer, which announce the whole body, and the first part of the body."""
    response = web.StreamResponse(status=sending.status, headers=sending.headers)
    response.content_type, response.content_length = sending.content_type, len(sending.body)
    await response.prepare(request)
    await response.write(body)
    return response


async def _halfway(request: web.Request, sending: Sending, fault: Fault) -> web.StreamResponse:
    """Send half, then reset the connection or send nothing more."""
    response = await _begin(request, sending, sending.body[: len(sending.body) // 2])
    if fault is Fault.STALL_BODY:
        await _until_left()
    # The client should read the half before the reset discards it.
    await asyncio.sleep(0.01)
    _reset(request)
    return response


async def _drip(request: web.Request, sending: Sending, seconds: float) -> web.StreamResponse:
    """Send all bytes but the last, one at a time."""
    response = await _begin(request, sending, b"")
    for byte in sending.body[:-1]:
        await response.write(bytes([byte]))
        await asyncio.sleep(seconds)
    return response


async def _pad(request: web.Request, sending: Sending, size: int) -> web.StreamResponse:
    """Send whitespace, and all bytes but the last."""
    response = web.StreamResponse(status=sending.status, headers=sending.headers)
    response.content_type = sending.content_type
    # In chunks, so that no content-length warns the client.
    await response.prepare(request)
    block = b" " * min(size, 1 << 20)
    for _ in range(size // max(1, len(block))):
        await response.write(block)
    await response.write(sending.body[:-1])
    return response


async def _whole(request: web.Request, sending: Sending) -> web.StreamResponse:
    response = web.Response(
        status=sending.status, body=sending.body, headers=sending.headers, content_type=sending.content_type
    )
    await response.prepare(request)
    await response.write_eof()
    return response


async def send(
    request: web.Request, ledger: Ledger, entry: Entry, sending: Sending, trouble: Trouble | None
) -> web.StreamResponse:
    """Send an answer, correctly or with its fault, and record how it ended.

    The ledger is updated before the last byte is sent, so a client that has its answer finds it there.
    """
    if trouble is None or sending.outcome is Outcome.REFUSED:
        return await _finish(request, ledger, entry, sending)
    match trouble.kind:
        case Fault.STALL:
            ledger.close(entry, Outcome.BROKEN)
            await _until_left()
        case Fault.DROPPED:
            sending.status, sending.outcome = 0, Outcome.BROKEN
        case Fault.LOST_GATEWAY:
            sending.status, sending.outcome = 504, Outcome.BROKEN
            sending.body, sending.content_type = _PAGE % (b"504 Gateway Timeout", b"Gateway Timeout"), "text/html"
        case Fault.FAILED_LATE:
            sending.status, sending.body = 500, refuse(_COMPLAINTS[Fault.SERVER_ERROR]).body
            sending.outcome = Outcome.BROKEN
        case Fault.LOST_PROXY:
            sending.status, sending.body, sending.content_type = 503, _ENVOY, "text/plain"
            sending.outcome = Outcome.BROKEN
        case Fault.RESET | Fault.STALL_BODY as fault:
            ledger.close(entry, Outcome.BROKEN, sending.status)
            return await _halfway(request, sending, fault)
        case Fault.TRUNCATED:
            sending.body, sending.outcome = sending.body[: len(sending.body) // 2], Outcome.BROKEN
        case Fault.SLOW:
            await asyncio.sleep(trouble.delay)
        case Fault.DRIP | Fault.HUGE as fault:
            slow = fault is Fault.DRIP
            response = await (_drip(request, sending, trouble.delay) if slow else _pad(request, sending, trouble.size))
            ledger.close(entry, Outcome.DELIVERED, sending.status)
            await response.write(sending.body[-1:])
            return response
    return await _finish(request, ledger, entry, sending)


async def _finish(request: web.Request, ledger: Ledger, entry: Entry, sending: Sending) -> web.StreamResponse:
    """Send a complete answer; without a status, close the connection."""
    ledger.close(entry, sending.outcome, sending.status or None)
    if sending.status == 0:
        _reset(request)
        return web.Response()
    return await _whole(request, sending)
