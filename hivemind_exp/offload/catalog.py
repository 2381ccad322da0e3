"""A service's model list (``/models``): ids and, from some services, price, context and whether a model reasons.

All services list ids. The other values come from genai-prices and the provider table if a service does not list them.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hivemind_exp.foreign_text import foreign
from hivemind_exp.offload.api.faults import encodable
from hivemind_exp.offload.prices import Price, Usage, listed_price
from hivemind_exp.offload.settings import Endpoint
from hivemind_exp.providers import Chat

_MOST = 5000
"""The number of models that are read, because a service may send a list of any length."""
_LONGEST_ID = 300
_FEW = 5
"""How many models an error names."""
_OTHER = ("embed", "whisper", "tts", "transcribe", "moderation", "image", "audio", "realtime", "rerank", "guard", "ocr")
"""Parts of the names of models that do not complete chats."""
_CONTEXT = ("context_window", "context_length", "max_model_len", "max_context_length", "inputTokenLimit")


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One model of a service's list. Unknown values are None."""

    id: str
    input: float | None = None
    """USD per million prompt tokens."""
    output: float | None = None
    """USD per million completion tokens."""
    reasons: bool | None = None
    context: int | None = None
    """Tokens of prompt and completion together."""


def read_list(content: bytes) -> list[dict[str, Any]] | None:
    """Return the rows of a model list that have an id; None if it is not one.

    An id becomes a setting and is printed, so it counts only if it is one line of visible characters.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return None
    rows = document.get("data", document.get("models")) if isinstance(document, dict) else document
    if not isinstance(rows, list):
        return None
    return [row for row in rows[:_MOST] if isinstance(row, dict) and _is_id(row.get("id"))]


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_ID and value.isprintable() and value == value.strip()


def chat_models(rows: list[dict[str, Any]], chat: Chat) -> list[ListedModel]:
    """Return the models that complete chats, the cheapest first; those without a known price last, by name."""
    found = [_model(row, chat) for row in rows if not any(part in row["id"].lower() for part in _OTHER)]
    return sorted(found, key=lambda each: (each.output is None, (each.input or 0) + (each.output or 0), each.id))


def lacks(rows: list[dict[str, Any]], model: str) -> bool:
    """Return whether a model list has entries, but not this model. Prefixes and tags are ignored."""
    names = {row["id"].removeprefix("models/") for row in rows}
    return bool(names) and names.isdisjoint({model, model.removeprefix("models/"), f"{model}:latest"})


def missing(endpoint: Endpoint, rows: list[dict[str, Any]]) -> str:
    """Return a sentence for a service that lacks the requested model. It names some of the service's other models."""
    found = chat_models(rows, endpoint.chat)
    named = ", ".join(_shown(each) for each in found[:_FEW])
    return f"{endpoint.name} has no model {endpoint.model}; it has {len(found)} others, such as {named or 'none'}"


def _shown(model: ListedModel) -> str:
    price = "" if model.output is None else f" ({model.input:g}/{model.output:g} USD per million tokens)"
    return foreign(model.id, 100) + price


def _model(row: Mapping[str, Any], chat: Chat) -> ListedModel:
    name = row["id"].removeprefix("models/")
    price = Price(0.0, 0.0) if chat.free else None if chat.prices is None else listed_price(chat.prices, name)
    told = _told_price(row)
    context = next((row[key] for key in _CONTEXT if isinstance(row.get(key), int)), None)
    if price is not None:  # of a short request: reserves are made at the highest tier
        told = round(price.cost(Usage(1000, 0)) * 1e3, 6), round(price.cost(Usage(0, 1000)) * 1e3, 6)
        context = context or (price.known and price.known[1].context_window)
    return ListedModel(encodable(name), *told, reasons=_reasons(row, name, chat), context=context)


def _told_price(row: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Return the price that a list states: OpenRouter per token, as text; Together per million tokens."""
    pricing = row.get("pricing")
    if not isinstance(pricing, dict):
        return None, None
    for names, scale in ((("prompt", "completion"), 1e6), (("input", "output"), 1.0)):
        try:
            found = [round(float(pricing[name]) * scale, 6) for name in names]
        except (KeyError, TypeError, ValueError):
            continue
        if min(found) >= 0:
            return found[0], found[1]
    return None, None


def _reasons(row: Mapping[str, Any], name: str, chat: Chat) -> bool | None:
    told = list(_told_reasoning(row))
    if told:
        return any(told)
    known = Endpoint("", "", name, chat, needs_key=False)
    return True if known.reasons else None


def _told_reasoning(row: Mapping[str, Any]) -> Iterator[bool]:
    parameters, able = row.get("supported_parameters"), row.get("capabilities")
    if isinstance(parameters, list):
        yield "reasoning" in parameters
    if isinstance(able, dict) and isinstance(able.get("reasoning"), bool):
        yield able["reasoning"]
