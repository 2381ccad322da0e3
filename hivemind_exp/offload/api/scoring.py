"""Requests for the log-probabilities of given tokens, through a completions API that can echo its prompt.

vLLM, SGLang and Fireworks accept a prompt of token ids and return the log-probability of each (``echo`` and
``logprobs``). Text is never sent instead: a service would split it into tokens of its own, often other ones.

As in ``chat``, everything that a service sends is untrusted.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from hivemind_exp.foreign_text import foreign
from hivemind_exp.offload.api.chat import ChatAnswer, read_choices, read_document
from hivemind_exp.offload.api.dialect import RequestDialect
from hivemind_exp.offload.settings import SCORING_TOKENS, Endpoint
from hivemind_exp.rollouts.types import TokensToScore

_ECHO_IDS = "return_token_ids"
"""vLLM echoes a prompt of token ids only with this parameter. It also sends the ids back."""
_ROUNDING = 1e-3
"""Nats by which a log-probability may be above 0."""
_LOWEST = -1e6
_UNDECODABLE = "\N{REPLACEMENT CHARACTER}"
"""A token that is a part of a character. Services show it in different ways."""
_MARKS = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n"})
"""How raw vocabularies write blanks, and some services return them."""


@dataclass(frozen=True, slots=True)
class ScoreAnswer(ChatAnswer):
    """A service's answer to a request for scores. It has no choices."""

    logps: tuple[float, ...] | None = None
    """The log-probability of each token of the completion; None if it has none that can be used."""
    problem: str = ""
    """Why not: a clause whose subject is the answer."""


def scoring_body(endpoint: Endpoint, style: RequestDialect, tokens: TokensToScore) -> dict[str, Any]:
    """Return the JSON of a request, without the parameters that the service has rejected."""
    asked: dict[str, Any] = {
        "model": endpoint.model,
        "prompt": [*tokens.prompt, *tokens.completion],
        "max_tokens": SCORING_TOKENS,
        "echo": True,
        "logprobs": 1,
        _ECHO_IDS: True,
    }
    return {name: value for name, value in asked.items() if name not in style.unsupported_params}


def read_scores(content: bytes, headers: Mapping[str, str], tokens: TokensToScore) -> ScoreAnswer:
    """Parse an answer with status 200. Raises ``RequestFailed`` if it is not a completion."""
    document = read_document(content, headers)
    answer = read_choices(document, headers)
    known = {field.name: getattr(answer, field.name) for field in fields(ChatAnswer)} | {"choices": ()}
    choices = document["choices"]
    choice = choices[0] if choices and isinstance(choices[0], dict) else {}
    try:
        return ScoreAnswer(**known, logps=_logps(choice, tokens))
    except _Unusable as problem:
        return ScoreAnswer(**known, problem=str(problem))


class _Unusable(Exception):
    """The scores cannot be used; the text says why."""


def _logps(choice: Mapping[str, Any], tokens: TokensToScore) -> tuple[float, ...]:
    """Return the completion's log-probabilities from an echo. Raises ``_Unusable``."""
    table = choice.get("logprobs")
    if not isinstance(table, dict) or not isinstance(table.get("token_logprobs"), list):
        raise _Unusable("it has no log-probabilities")
    values, start = table["token_logprobs"], len(tokens.prompt)
    end = start + len(tokens.completion)
    if not end <= len(values) <= end + SCORING_TOKENS:
        raise _Unusable(f"it has log-probabilities of {len(values)} tokens, but {end} were sent")
    sent = [*tokens.prompt, *tokens.completion]
    for ids in (choice.get("prompt_token_ids"), table.get("token_ids")):
        if isinstance(ids, list) and ids[:end] != sent:
            raise _Unusable("it has log-probabilities of different tokens from those that were sent")
    _check_texts(table.get("tokens"), tokens, range(start, end))
    found = [_logp(value) for value in values[start:end]]
    for place, value in enumerate(found):
        if value is None:
            text = foreign(str(values[start + place]), 20)
            raise _Unusable(f"the log-probability of token {place + 1} of {len(found)} is {text}")
    return tuple(value for value in found if value is not None)


def _logp(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return min(0.0, float(value)) if _LOWEST <= value <= _ROUNDING else None


def _check_texts(theirs: Any, tokens: TokensToScore, places: range) -> None:
    """Raise ``_Unusable`` unless the service has the same texts for the tokens as this node."""
    if not isinstance(theirs, list) or len(theirs) < places.stop:
        raise _Unusable("it does not say which tokens it scored")
    for place, (own, other) in enumerate(zip(tokens.texts, theirs[places.start : places.stop], strict=True)):
        if not _same(own, other):
            raise _Unusable(
                f"it uses another tokenizer: token {place + 1} of {len(places)} is {foreign(str(other), 20)} "
                f"there, and {foreign(own, 20)} in this node's tokenizer"
            )


def _same(own: str, other: Any) -> bool:
    if not isinstance(other, str):
        return False
    return own == other or _UNDECODABLE in own or own.strip() == other.translate(_MARKS).strip()


def mean_distance(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the mean distance between two scores of the same tokens, in nats."""
    return math.fsum(abs(a - b) for a, b in zip(first, second, strict=True)) / len(first)
