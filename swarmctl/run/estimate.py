"""What a round of offloading takes: requests, tokens, dollars, minutes. Found out without asking anybody."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from hivemind_exp.charter import charter_id
from hivemind_exp.config import Config
from hivemind_exp.offload.endpoints import first_endpoint
from hivemind_exp.offload.ledger import BYTES_A_MESSAGE
from hivemind_exp.offload.prices import BATCH_SHARE, Price, Usage, bounded_price
from hivemind_exp.sources.schedule import share_of

_SAMPLE = 8
"""Questions that are made to see how long prompts are."""
_BYTES_A_TOKEN = 4
"""Of English text, with any large vocabulary."""
_FILL = 0.5
"""How much of its allowed length a completion has, for want of better knowledge."""
_TOKENS_A_SECOND = 50
"""Of one request at a hosted service, likewise."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One round."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    usd: float
    usd_at_most: float
    """With every completion as long as it may be; what the cap is kept with."""
    minutes: float

    def as_json(self) -> dict[str, Any]:
        return {key: round(value, 6) for key, value in asdict(self).items()}


def estimate(config: Config) -> Estimate:
    """Make a few questions and count. Raises ``NodeError`` where that fails or a price is not known."""
    endpoint, offload = first_endpoint(config), config.offload
    price = bounded_price(endpoint, offload.prices, capped=offload.limits.capped)
    groups, size = config.game.groups, config.game.group_size
    filled = share_of(offload, size)
    bytes_a_prompt = _bytes_a_prompt(config)
    several = endpoint.chat.group == "n"
    # Of a round with several stages, each is a prompt of its own; what later ones quote is counted at its longest.
    stages = len(set(offload.stages))
    groups *= stages
    bytes_a_prompt += sum(_bytes_quoted(config, stage) for stage in set(offload.stages)) / stages
    requests = groups * (1 if several else filled)
    prompt = requests * math.ceil(bytes_a_prompt / _BYTES_A_TOKEN)
    longest = config.generation.max_completion_tokens + (offload.reasoning_tokens if endpoint.reasons else 0)
    completion = round(groups * filled * longest * _FILL)
    discount = BATCH_SHARE if offload.batch else 1.0
    return Estimate(
        requests=requests,
        prompt_tokens=prompt,
        completion_tokens=completion,
        usd=discount * _cost(price, prompt / requests, completion / requests) * requests,
        usd_at_most=discount * (requests * bytes_a_prompt * price.input + groups * filled * longest * price.output),
        minutes=_minutes(config, requests, prompt + completion, longest),
    )


def _bytes_quoted(config: Config, stage: str) -> int:
    """Return what a stage quotes at most: nothing, answers, or answers and critiques."""
    from hivemind_exp.game.study_group.merging import SHOWN
    from hivemind_exp.game.study_group.quoting import LONGEST_QUOTATION

    most = min(LONGEST_QUOTATION, _BYTES_A_TOKEN * config.generation.max_completion_tokens)
    return {"critique": 1, "resolve": 2}.get(stage, 0) * SHOWN * most


def _cost(price: Price, prompt: float, completion: float) -> float:
    """Return dollars of one request, at the rate of its size: very long ones are dearer."""
    return price.cost(Usage(math.ceil(prompt), math.ceil(completion)))


def _minutes(config: Config, requests: int, tokens: int, longest: int) -> float:
    limits = config.offload.limits
    waves = math.ceil(requests / limits.concurrency)
    minutes = waves * longest * _FILL / _TOKENS_A_SECOND / 60
    if limits.requests_per_minute:
        minutes = max(minutes, requests / limits.requests_per_minute)
    if limits.tokens_per_minute:
        minutes = max(minutes, tokens / limits.tokens_per_minute)
    return minutes


def _bytes_a_prompt(config: Config) -> float:
    from hivemind_exp.game.sampling.prompts import messages
    from hivemind_exp.tasks.mixture import Mixture

    charter = charter_id(config).encode()
    tasks = Mixture(config.tasks, charter=charter, secret=b"", heldout=0, verifiers=1)
    try:
        prompts = [messages(question) for question in tasks.questions("train", 0, min(_SAMPLE, config.game.groups))]
    finally:
        tasks.close()
    sizes = [sum(len(turn["content"].encode()) + BYTES_A_MESSAGE for turn in prompt) for prompt in prompts]
    return sum(sizes) / len(sizes)
