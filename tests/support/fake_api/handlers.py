"""The endpoints: a common wrapper, and each one's handler."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from tests.support.fake_api import batches
from tests.support.fake_api.answers import Complaint, complaint, generate
from tests.support.fake_api.ask import Ask, count_prompt, digest
from tests.support.fake_api.faults import Trouble
from tests.support.fake_api.ledger import Entry, Outcome
from tests.support.fake_api.scoring import score
from tests.support.fake_api.state import State
from tests.support.fake_api.wire import UNAUTHORISED, Sending, refuse, refuse_for, refuse_limit, send, send_json

STATE = web.AppKey("state", State)
_Act = Callable[[State, web.Request], Awaitable[Sending]]
_Handle = Callable[[State, web.Request, Entry], Awaitable[tuple[Sending, Trouble | None]]]


def _key(request: web.Request) -> str | None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    return key if scheme == "Bearer" else None


def _open(state: State, endpoint: str, request: web.Request) -> Entry:
    headers = {name.lower(): value for name, value in request.headers.items()}
    headers.pop("authorization", None)
    return state.ledger.open(endpoint, key=_key(request), headers=headers)


def _forbidden(state: State, request: web.Request) -> bool:
    return state.options.keys is not None and _key(request) not in state.options.keys


async def _read_ask(state: State, request: web.Request, entry: Entry) -> Ask | None:
    """Read and record a body; None if it is not a JSON object."""
    try:
        body = json.loads(await request.read())
    except ValueError:
        return None
    if not isinstance(body, dict):
        return None
    mark = digest(body.get("messages", []))
    ask = Ask(body, entry.key, mark, state.attempt(mark))
    entry.model, entry.messages, entry.digest, entry.n = ask.model, ask.messages, mark, ask.n
    entry.parameters = {name: value for name, value in body.items() if name not in ("model", "messages", "n")}
    return ask


def _pick(state: State, endpoint: str, ask: Ask | None, entry: Entry) -> Trouble | None:
    trouble = state.pick(endpoint, ask)
    entry.fault = trouble.kind if trouble else None
    return trouble


async def _complete(state: State, ask: Ask, entry: Entry, trouble: Trouble | None) -> Sending:
    """Answer a request for a chat completion."""
    if wrong := complaint(state, ask):
        return refuse(wrong)
    asked = ask.n * (ask.max_tokens or 0) if state.options.charge == "asked" else 0
    now = time.monotonic()
    if refused := state.limiter.admit(now, count_prompt(ask.messages) + asked):
        return refuse_limit(*refused)
    reply = generate(state, ask, entry.id, trouble.kind if trouble else None)
    if not asked:
        state.limiter.settle(now, reply.completion_tokens)
    # Billed at once: a client that disconnects now pays, too.
    entry.bill(reply.texts, reply.prompt_tokens, reply.completion_tokens)
    latency = state.options.latency
    await asyncio.sleep(latency(ask) if callable(latency) else latency)
    return send_json(reply.body)


async def _chat(state: State, request: web.Request, entry: Entry) -> tuple[Sending, Trouble | None]:
    ask = await _read_ask(state, request, entry)
    if _forbidden(state, request):
        return refuse(UNAUTHORISED), None
    if ask is None:
        return refuse(Complaint(400, "We could not parse the JSON body of your request.")), None
    trouble = _pick(state, "chat", ask, entry)
    refusal = refuse_for(trouble, ask) if trouble else None
    return refusal or await _complete(state, ask, entry, trouble), trouble


async def _score(state: State, request: web.Request, entry: Entry) -> tuple[Sending, Trouble | None]:
    ask = await _read_ask(state, request, entry)
    if _forbidden(state, request):
        return refuse(UNAUTHORISED), None
    if ask is None:
        return refuse(Complaint(400, "We could not parse the JSON body of your request.")), None
    entry.digest = digest([{"prompt": ask.body.get("prompt")}])
    trouble = _pick(state, "score", ask, entry)
    refusal = refuse_for(trouble, ask) if trouble else None
    if refusal is None and not callable(state.options.latency):
        await asyncio.sleep(state.options.latency)
    return refusal or score(state, ask, entry), trouble


def _other(endpoint: str, act: _Act) -> _Handle:
    """Return the handler of an endpoint other than chat completions."""

    async def handle(state: State, request: web.Request, entry: Entry) -> tuple[Sending, Trouble | None]:
        if _forbidden(state, request):
            return refuse(UNAUTHORISED), None
        trouble = _pick(state, endpoint, None, entry)
        refusal = refuse_for(trouble, None) if trouble else None
        return refusal or await act(state, request), trouble

    return handle


def _endpoint(endpoint: str, handle: _Handle) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return an endpoint that records every request, whatever happens."""

    async def serve(request: web.Request) -> web.StreamResponse:
        state = request.app[STATE]
        entry = _open(state, endpoint, request)
        try:
            sending, trouble = await handle(state, request, entry)
            sending.headers["x-request-id"] = entry.id
            if endpoint == "chat":
                sending.headers |= state.limiter.headers(time.monotonic())
            return await send(request, state.ledger, entry, sending, trouble)
        except ConnectionError:
            if entry.outcome is Outcome.DELIVERED:
                state.ledger.close(entry, Outcome.ABANDONED)
            return web.Response()
        finally:
            if entry.outcome is Outcome.PENDING:
                state.ledger.close(entry, Outcome.ABANDONED)

    return serve


async def _models(state: State, _: web.Request) -> Sending:
    rows = [{"id": name, "object": "model", "created": 0, "owned_by": "tests"} for name in state.options.models]
    return send_json({"object": "list", "data": rows})


async def _ledger(request: web.Request) -> web.Response:
    return web.json_response(request.app[STATE].ledger.snapshot().to_json())


async def _control(request: web.Request) -> web.Response:
    """Carry out ``{"next": {…}, "always": {…}, "set": {…}, "revoke": {…}, "finish_batches": {…}}``."""
    state = request.app[STATE]
    commands: dict[str, dict[str, Any]] = await request.json()
    for name, arguments in commands.items():
        getattr(state, name)(**arguments)
    return web.json_response({})


@web.middleware
async def _down(request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Any:
    """Send no answer on connections that were open before the service went down."""
    if request.app[STATE].down and request.transport is not None:
        request.transport.abort()
        return web.Response()
    return await handler(request)


def build_app(state: State) -> web.Application:
    """Return the application."""
    app = web.Application(client_max_size=1 << 30, middlewares=[_down])
    app[STATE] = state
    app.router.add_post("/v1/chat/completions", _endpoint("chat", _chat))
    app.router.add_post("/v1/completions", _endpoint("score", _score))
    app.router.add_get("/v1/models", _endpoint("models", _other("models", _models)))
    app.router.add_post("/v1/files", _endpoint("files", _other("files", batches.upload)))
    app.router.add_get("/v1/files/{id}/content", _endpoint("content", _other("content", batches.content)))
    app.router.add_post("/v1/batches", _endpoint("batches", _other("batches", batches.create)))
    app.router.add_get("/v1/batches", _endpoint("batches", _other("batches", batches.listing)))
    app.router.add_get("/v1/batches/{id}", _endpoint("batches", _other("batches", batches.retrieve)))
    app.router.add_post("/v1/batches/{id}/cancel", _endpoint("batches", _other("batches", batches.cancel)))
    app.router.add_get("/ledger", _ledger)
    app.router.add_post("/control", _control)
    return app
