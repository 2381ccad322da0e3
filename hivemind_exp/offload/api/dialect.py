"""Requests for chat completions: their contents, and the form that each service expects."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hivemind_exp.config import OFF, Config
from hivemind_exp.offload.settings import JUDGE, OFFLOAD, Endpoint, token_limit
from hivemind_exp.rollouts.types import Message

_SEED_BITS = 0x7FFFFFFF
_CONTEXT = re.compile(r"(?:context (?:length|window|size)|\bmax_model_len)[^0-9]{0,40}?(\d+)", re.IGNORECASE)
_PROMPT = re.compile(r"(\d+) (?:in the messages|input tokens|tokens in the prompt|prompt tokens)", re.IGNORECASE)
"""How servers with a small context report that a request does not fit: the context's size, and the prompt's tokens.

vLLM leaves out the prompt if the limit of the completion alone exceeds the context.
"""
_TOO_LARGE = re.compile(r"too (?:large|high)|greater than|less than or equal|at most|maximum|exceed", re.IGNORECASE)
LIMIT_NAMES = ("max_tokens", "max_completion_tokens")
"""Names of the parameter that limits a completion."""
_SYSTEM_ROLE = re.compile(r"\bsystem[ _](?:role|message|prompt|instruction)|role:? .?system", re.IGNORECASE)
PLAIN: Mapping[str, float] = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""Values that stop servers from reshaping the distribution, as the model's own defaults otherwise may."""
OPTIONAL = ("temperature", "seed", "reasoning_effort", "service_tier", "return_token_ids", *PLAIN)
"""Parameters that a request can do without."""


@dataclass(slots=True)
class RequestDialect:
    """How one service's requests must look. It starts from the provider table and adapts to the service's errors."""

    max_tokens: str
    """Name of the parameter that limits a completion."""
    supports_n: bool
    """Whether one request can ask for several choices."""
    reasons: bool = False
    """Whether the model uses hidden reasoning before it answers: known in advance, or learned from its answers."""
    unsupported_params: set[str] = field(default_factory=set)
    """Parameters that the service rejects."""
    longest: int | None = None
    """The number of completion tokens that fit into a small context beside the prompt. None: no limit is known."""
    folds_system: bool = False
    """Whether instructions must be part of the user's message, because the model has no system role."""
    changes: int = 0
    """Number of adaptations. If it grew while a request was in flight, the cause of its error may already be fixed."""

    def adapt(self, message: str, *, first: bool = False) -> bool:
        """Change what an error message complains about; return whether anything changed.

        ``first``: the service has not answered yet, so the error cannot be about one long prompt.
        """
        named = set(re.findall(r"\w+", message))
        complaints = [name for name in OPTIONAL if name in named]
        new = next((name for name in complaints if name not in self.unsupported_params), None)
        if first and self._fit(message):
            pass
        elif self.max_tokens in named and "max_tokens" not in self.unsupported_params and not is_too_large(message):
            self.max_tokens = next(name for name in LIMIT_NAMES if name != self.max_tokens)
            self.unsupported_params.add("max_tokens")  # switch only once: nothing helps if a service takes neither
        elif new is not None:
            self.unsupported_params.add(new)
        elif self.supports_n and "n" in named:
            self.supports_n = False
        elif not self.folds_system and _SYSTEM_ROLE.search(message):
            self.folds_system = True
        else:
            return False
        self.changes += 1
        return True

    def _fit(self, message: str) -> bool:
        """If the error says that a small context is full, limit completions to what fits, once; return whether it does.

        Half of the space that the rejected prompt leaves is kept for longer prompts.
        """
        size, prompt = context_size(message)
        if self.longest is not None or size is None or (prompt is None and "max_model_len" not in message):
            return False
        left = (size - (prompt or 0)) // 2
        self.longest = left if left > 0 else None
        return self.longest is not None


def context_size(message: str) -> tuple[int | None, int | None]:
    """Return the context's size and the prompt's length that an error states, in tokens; None for what it does not."""
    size, prompt = _CONTEXT.search(message), _PROMPT.search(message)
    return int(size[1]) if size else None, int(prompt[1]) if prompt else None


def is_too_large(message: str) -> bool:
    """Return whether an error about a parameter is about its value, so that another name would not help."""
    return _TOO_LARGE.search(message) is not None


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample completions."""

    temperature: float
    max_tokens: int
    """Limit on the visible completion."""
    reasoning_tokens: int
    """Extra allowance for hidden reasoning."""
    reasoning_effort: str | None
    service_tier: str | None = None
    """None: the service's default."""
    plain: bool = False
    """Whether to turn off top_p, top_k and penalties. Training assumes this of rows from the node's own policy."""
    answers: bool = True
    """Whether the completions answer questions. A judge's are grades, and there can be hints instead."""
    table: str = OFFLOAD
    """The settings table that names the model."""

    @classmethod
    def of(cls, config: Config) -> "SamplingParams":
        """Return how a node with these settings, of one use of an API (``judge.api_configs``), samples from it."""
        offload, temperature = config.offload, config.generation.temperature
        effort, tier = offload.reasoning_effort, None if offload.service_tier == "default" else offload.service_tier
        plain = config.offload.counts_as.own
        table = OFFLOAD if config.judge.provider == OFF else JUDGE
        answers = table == OFFLOAD and offload.teach == "answers"
        return cls(temperature, token_limit(config), offload.reasoning_tokens, effort, tier, plain, answers, table)


def most_tokens(style: RequestDialect, sampling: SamplingParams) -> int:
    """Return the most tokens that one choice may have, including hidden ones."""
    most = sampling.max_tokens + (sampling.reasoning_tokens if style.reasons else 0)
    return most if style.longest is None else min(most, style.longest)


def body(  # noqa: PLR0917 - all parts of a request
    endpoint: Endpoint,
    style: RequestDialect,
    messages: tuple[Message, ...],
    count: int,
    sampling: SamplingParams,
    seed: int,
) -> dict[str, Any]:
    """Return the JSON of a request, without the parameters that the service has rejected."""
    asked: dict[str, Any] = {
        "model": endpoint.model,
        "messages": _folded(messages) if style.folds_system else list(messages),
        style.max_tokens: most_tokens(style, sampling),
        "temperature": sampling.temperature,
    }
    if sampling.plain:
        asked |= PLAIN
    if count > 1:
        asked["n"] = count
    if "seed" in endpoint.chat.extras:
        asked["seed"] = seed & _SEED_BITS
    if sampling.reasoning_effort is not None:
        asked["reasoning_effort"] = sampling.reasoning_effort
    if sampling.service_tier is not None and endpoint.chat.flex_share is not None:
        asked["service_tier"] = sampling.service_tier
    return {
        name: value for name, value in asked.items() if name not in style.unsupported_params or name == style.max_tokens
    }


def _folded(messages: tuple[Message, ...]) -> list[Message]:
    """Return messages without a system role: its text becomes the start of the first message of the user."""
    instructions = [message["content"] for message in messages if message["role"] == "system"]
    first, *rest = [message for message in messages if message["role"] != "system"]
    return [{"role": first["role"], "content": "\n\n".join([*instructions, first["content"]])}, *rest]
