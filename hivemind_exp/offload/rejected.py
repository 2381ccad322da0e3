"""Rejected requests: which setting to change, according to what the service says."""

import re
from dataclasses import dataclass

from hivemind_exp.offload.api.dialect import (
    LIMIT_NAMES,
    RequestDialect,
    SamplingParams,
    context_size,
    is_too_large,
    most_tokens,
)
from hivemind_exp.offload.settings import OFFLOAD

_CONTEXT = re.compile(r"context (?:length|window|size)|max_model_len|reduce the length", re.IGNORECASE)
_NUMBER = re.compile(r"(?:at most|less than or equal to|maximum (?:value )?(?:of|is)|<=) ?(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Remedy:
    """What helps against the rejection of a request."""

    advice: str
    """Which setting to change, and why."""
    command: str | None
    """The command to suggest, if one is better than a check of the provider."""


def remedy(detail: str, style: RequestDialect, sampling: SamplingParams, name: str) -> Remedy | None:
    """Return what helps if a service rejects a request with ``detail``; None if its words name nothing known.

    ``name``: the provider's.
    """
    named = set(re.findall(r"\w+", detail))
    if _CONTEXT.search(detail):
        return _too_long(detail, style, sampling, name)
    if "body.model" in detail:
        return Remedy(f"Choose another model ({sampling.table}.model)", _models(name))
    if named.isdisjoint(LIMIT_NAMES):
        return None
    limit, asked = f"{sampling.table}.max_tokens", most_tokens(style, sampling)
    if not is_too_large(detail):
        both = " and ".join(LIMIT_NAMES)
        text = f"Every request limits a completion's tokens ({limit}), and this server rejects the parameter: {both} "
        return Remedy(f"{text}were tried. Use another server ({sampling.table}.provider)", None)
    stated = _NUMBER.search(detail)
    most = int(stated[1]) if stated is not None and 0 < int(stated[1]) < asked else asked // 2
    return _lower(f"Requests ask for up to {asked} tokens", style, sampling, most)


def _too_long(detail: str, style: RequestDialect, sampling: SamplingParams, name: str) -> Remedy:
    size, prompt = context_size(detail)
    asked = most_tokens(style, sampling)
    if size is not None and prompt is not None and prompt >= size:
        text = (
            f"The prompt alone is longer than the context. Start the server with a longer one, choose another model "
            f"({sampling.table}.model), or leave out long prompts with a lower generation.max_prompt_tokens"
        )
        return Remedy(text, _models(name))
    most = asked // 2 if size is None else min(asked - 1, (size - (prompt or 0)) // 2)
    text = f"Requests ask for up to {asked} tokens beside the prompt. Long prompts: lower generation.max_prompt_tokens"
    return _lower(text, style, sampling, most)


def _lower(text: str, style: RequestDialect, sampling: SamplingParams, most: int) -> Remedy:
    """Return the advice to ask for at most ``most`` tokens, hidden ones included."""
    limit, hidden = f"{sampling.table}.max_tokens", sampling.reasoning_tokens if style.reasons else 0
    most = max(1, most)
    if not hidden:
        settings = {limit: min(most, sampling.max_tokens)}
    elif most > sampling.max_tokens:
        settings = {f"{OFFLOAD}.reasoning_tokens": most - sampling.max_tokens}
    else:
        settings = {limit: max(1, most // 2), f"{OFFLOAD}.reasoning_tokens": most // 2}
    now = {limit: sampling.max_tokens, f"{OFFLOAD}.reasoning_tokens": hidden}
    lower = " and ".join(f"{each} (now {now[each]})" for each in settings)
    changes = " ".join(f"--set {each}={value}" for each, value in settings.items())
    return Remedy(f"{text}. Lower {lower}", f"swarmctl run {changes}")


def _models(name: str) -> str:
    return f"swarmctl models {name}"
