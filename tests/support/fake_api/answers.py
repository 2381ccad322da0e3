"""Bodies of chat completions: good ones, odd ones, and refusals of bad requests."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from tests.support.fake_api.ask import KNOWN_FIELDS, Ask, count_prompt, count_tokens
from tests.support.fake_api.faults import Fault
from tests.support.fake_api.state import State

ADDED_TOKENS = 500
"""Tokens that ``ADDED_PROMPT`` adds to a prompt."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A completion and its bill."""

    body: dict[str, Any]
    texts: list[str]
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Complaint:
    """Why a request is refused."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    type: str = "invalid_request_error"

    @property
    def body(self) -> dict[str, Any]:
        """In OpenAI's form; for an unknown field, in FastAPI's."""
        if self.status == 422:
            return {"detail": [{"type": "extra_forbidden", "loc": ["body", self.param], "msg": self.message}]}
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def unsupported(parameter: str) -> Complaint:
    """Return OpenAI's error for a parameter that a model does not support."""
    cure = " Use 'max_completion_tokens' instead." if parameter == "max_tokens" else ""
    message = f"Unsupported parameter: '{parameter}' is not supported with this model.{cure}"
    return Complaint(400, message, "unsupported_parameter", parameter)


def unknown_model(model: str) -> Complaint:
    """Return OpenAI's error for a model that does not exist."""
    return Complaint(404, f"The model `{model}` does not exist or you do not have access to it.", "model_not_found")


def unknown_field(field: str) -> Complaint:
    """Return FastAPI's error for a field that is not in the schema."""
    return Complaint(422, "Extra inputs are not permitted", param=field)


def complaint(state: State, ask: Ask) -> Complaint | None:
    """Return why a request is refused; None if it is not."""
    if state.options.strict and (unknown := sorted(set(ask.body) - KNOWN_FIELDS)):
        return unknown_field(unknown[0])
    if refused := [parameter for parameter in state.options.rejects if parameter in ask.body]:
        return unsupported(refused[0])
    return _invalid(ask) or (None if ask.model in state.options.models else unknown_model(ask.model))


def _invalid(ask: Ask) -> Complaint | None:
    """Return an error that every service would report."""
    if not ask.messages or not all(isinstance(message, dict) and "role" in message for message in ask.messages):
        return Complaint(400, "'messages' has to be a list of messages with a role", param="messages")
    if not 1 <= ask.n <= 128:
        return Complaint(400, f"{ask.n} is not between 1 and 128 - 'n'", param="n")
    if ask.body.get("stream"):
        return Complaint(400, "Streaming is not supported here", param="stream")
    return None


def _count(state: State, ask: Ask, fault: Fault | None) -> int:
    """Return how many choices come back."""
    asked = 1 if state.options.single else ask.n
    match fault:
        case Fault.FEWER:
            return max(1, asked - 1)
        case Fault.EXTRA:
            return asked + 1
        case Fault.NO_CHOICES:
            return 0
    return asked


def _content(state: State, ask: Ask, fault: Fault | None) -> tuple[str | None, str, int]:
    """Return a choice's content, its finish reason and its hidden tokens."""
    text = state.options.answer(ask.messages, state.index(ask.digest))
    hidden, finish = state.options.reasoning, "stop"
    if ask.max_tokens is not None and hidden + count_tokens(text) > ask.max_tokens:
        room = ask.max_tokens - hidden
        text = text.encode()[: room * 4 - 1].decode(errors="ignore") if room > 0 else ""
        # A model that reasons beyond its limit is billed for the reasoning and returns no text.
        hidden, finish = min(hidden, ask.max_tokens), "length"
    match fault:
        case Fault.EMPTY:
            return "", finish, hidden
        case Fault.NULL:
            return None, finish, hidden
        case Fault.LENGTH:
            return text[: len(text) // 2], "length", hidden
        case Fault.FILTERED:
            return text[: len(text) // 2], "content_filter", hidden
        case Fault.CHOICE_ERROR:
            return text[: len(text) // 2], "error", hidden
    return text, finish, hidden


def _logprobs(text: str) -> dict[str, Any]:
    """Return log-probabilities for a text cut into tokens of four characters."""
    tokens = [text[i : i + 4] for i in range(0, len(text), 4)]
    return {
        "content": [
            {"token": token, "logprob": -0.1 * (1 + i % 7), "bytes": list(token.encode()), "top_logprobs": []}
            for i, token in enumerate(tokens)
        ],
        "refusal": None,
    }


def _usage(prompt: int, completion: int, hidden: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": hidden},
    }


def _spoil(body: dict[str, Any], fault: Fault | None) -> None:
    """Make the parts around the choices odd."""
    match fault:
        case Fault.OTHER_MODEL:
            body["model"] += "-other"
        case Fault.NO_USAGE:
            del body["usage"]
        case Fault.NEGATIVE_USAGE:
            body["usage"] = _usage(-1000, -1000, -1000)
        case Fault.FLOAT_USAGE:
            names = ("prompt_tokens", "completion_tokens", "total_tokens")
            body["usage"] |= {name: float(body["usage"][name]) for name in names}
        case Fault.PARTS:
            for choice in body["choices"]:
                text, message = choice["message"]["content"], choice["message"]
                thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
                message["content"] = [thinking, {"type": "text", "text": text}]
        case Fault.CHOICE_ERROR:
            for choice in body["choices"]:
                choice |= {"finish_reason": "error", "error": {"code": 502, "message": "Upstream error"}}
        case Fault.STRING_USAGE:
            body["usage"] = dict.fromkeys(body["usage"], "many")
        case Fault.CHOICES_NOT_LIST:
            body["choices"] = {str(choice["index"]): choice for choice in body["choices"]}


def generate(state: State, ask: Ask, request_id: str, fault: Fault | None) -> Reply:
    """Return the completion for a valid request."""
    wants_logprobs = state.options.logprobs and fault is not Fault.NULL_LOGPROBS and ask.body.get("logprobs")
    contents = [_content(state, ask, fault) for _ in range(_count(state, ask, fault))]
    choices = [
        {
            "index": i,
            "message": {"role": "assistant", "content": content, "refusal": None},
            "finish_reason": finish,
            "logprobs": _logprobs(content) if wants_logprobs and content is not None else None,
        }
        for i, (content, finish, _) in enumerate(contents)
    ]
    hidden = sum(tokens for _, _, tokens in contents)
    # After reasoning up to the limit, no token is left, not even the one of an empty text.
    visible = sum(count_tokens(content or "") for content, finish, _ in contents if content or finish != "length")
    prompt = count_prompt(ask.messages) + (ADDED_TOKENS if fault is Fault.ADDED_PROMPT else 0)
    body: dict[str, Any] = {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": ask.model,
        "choices": choices,
        "usage": _usage(prompt, hidden + visible, hidden),
        "system_fingerprint": None,
    }
    _spoil(body, fault)
    if state.options.amend:
        body = state.options.amend(ask, body)
    return Reply(body, [content for content, _, _ in contents if content is not None], prompt, hidden + visible)
