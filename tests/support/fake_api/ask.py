"""Parse a client's request, and count tokens as this server does."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

Messages = list[dict[str, Any]]

KNOWN_FIELDS = frozenset(
    {
        "messages",
        "model",
        "audio",
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "metadata",
        "modalities",
        "n",
        "parallel_tool_calls",
        "prediction",
        "presence_penalty",
        "prompt_cache_key",
        "reasoning_effort",
        "response_format",
        "safety_identifier",
        "seed",
        "service_tier",
        "stop",
        "store",
        "stream",
        "stream_options",
        "temperature",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "user",
        "verbosity",
    }
)
"""OpenAI's parameters of a chat completion; a strict server refuses any other."""


def digest(messages: Messages) -> str:
    """Return the digest that identifies a prompt in the ledger."""
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()[:16]


def count_tokens(text: str) -> int:
    """Return a text's number of tokens: a quarter of its UTF-8 bytes, plus one."""
    return len(text.encode()) // 4 + 1


def _text(content: Any) -> str:
    """Return a message's text, whether it came as a string or as OpenAI's list of parts."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def count_prompt(messages: Messages) -> int:
    """Return a prompt's number of tokens."""
    return sum(count_tokens(_text(message.get("content"))) for message in messages)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for a chat completion, not yet checked."""

    body: dict[str, Any]
    key: str | None
    digest: str
    attempt: int
    """The number of earlier requests with the same messages."""

    @property
    def messages(self) -> Messages:
        """The prompt; empty if the client sent none."""
        messages = self.body.get("messages")
        return messages if isinstance(messages, list) else []

    @property
    def model(self) -> str:
        """The requested model."""
        return str(self.body.get("model", ""))

    @property
    def n(self) -> int:
        """The number of requested choices; 0 if it is not a number."""
        n = self.body.get("n")
        return 1 if n is None else n if isinstance(n, int) else 0

    @property
    def max_tokens(self) -> int | None:
        """The most tokens one choice may have, under either of the two names."""
        limit = self.body.get("max_completion_tokens") or self.body.get("max_tokens")
        return None if limit is None else int(limit)


def digest_answer(messages: Messages, _index: int) -> str:
    """Return a text without any tags, whatever the prompt asks for."""
    return digest(messages)


def default_answer(messages: Messages, index: int) -> str:
    """Return a text that is unique to the prompt and index: the same twelve digits, one to four times.

    A node's test request gets a proper answer.
    """
    mark = hashlib.sha256(f"{digest(messages)}/{index}".encode()).hexdigest()
    if messages[-1]["content"] == "What is 2 + 3?":  # a node's test request
        return "<answer>5</answer>"
    return " ".join([mark[:12]] * (1 + int(mark[12], 16) % 4))
