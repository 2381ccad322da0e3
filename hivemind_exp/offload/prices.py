"""What requests cost, and the most that one can cost.

Prices come from the profile or from genai-prices, which is bundled and needs no network.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from hivemind_exp.config import OffloadConfig, PriceConfig
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.offload.settings import Endpoint
from hivemind_exp.providers import PROVIDERS
from hivemind_exp.proxies import is_private

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

BYTES_A_MESSAGE = 64
"""Upper bound on a message's tokens besides its text: role and framing."""
FLEX = "flex"
"""The service tier whose requests are cheaper and may have to wait."""
_FASTER = ("priority", "fast")
"""The service tiers whose requests cost more. A project at OpenAI can have one as its default."""
_FASTER_SHARE = 2.5
"""Price of a token in these tiers, as a fraction of its normal price, if it is not listed. It is the largest of those
that OpenAI and Google list, checked on 2026-11-29: GPT-5.5 costs 2.5 times as much, other models 1.67 to 2 times."""
_MANY = 10_000_000
"""A token count beyond every price tier: the price per token there is the highest possible."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one request, as the service reports them."""

    prompt: int
    completion: int
    """Includes hidden reasoning."""
    cached: int = 0
    """The part of ``prompt`` that came from the service's cache."""
    reasoning: int = 0
    """The part of ``completion`` that is hidden."""
    charged: float = 0.0
    """Dollars that the service says it charged; 0 if it does not say."""


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars per token.

    ``input`` and ``output`` are the highest rates that may apply, at any hour and size. Reserves are made at these.
    """

    input: float
    output: float
    known: tuple[Provider, ModelInfo] | None = None
    """The row of genai-prices, which has tiers, hours and cached input."""
    batch_share: float = 0.5
    """Price of a token in a batch, as a fraction of its normal price."""
    flex_share: float | None = None
    """Price of a token in the tier "flex", as a fraction of its normal price; None if there is no such tier."""

    def cost(self, usage: Usage, *, tier: str | None = None) -> float:
        """Return the cost in dollars: what the service says it charged, or the listed price if that is more.

        ``tier``: the service tier that the answer names.
        """
        # Someone says that a free service costs nothing, whatever it states.
        return max(self._cost_in_tier(usage, tier), 0.0 if self.free else usage.charged)

    def _cost_in_tier(self, usage: Usage, tier: str | None) -> float:
        """Return the listed cost in a service tier; if it is not listed, the normal price times the tier's share."""
        variants = () if self.known is None else self.known[1].price_variants or ()
        if any(variant.when.get("service_tier") == tier for variant in variants):
            return self.listed_cost(usage, tier=tier)
        if tier == FLEX and self.flex_share is not None:
            return self.flex_share * self.listed_cost(usage)
        return (_FASTER_SHARE if tier in _FASTER else 1.0) * self.listed_cost(usage)

    def listed_cost(self, usage: Usage, *, tier: str | None = None) -> float:
        """Return the cost in dollars by the token counts and the normal price, or that of a listed service tier."""
        if self.known is None:
            return usage.prompt * self.input + usage.completion * self.output
        from genai_prices import Usage as Tokens

        provider, model = self.known
        tokens = Tokens(
            input_tokens=usage.prompt,
            output_tokens=usage.completion,
            cache_read_tokens=min(usage.cached, usage.prompt),
        )
        context = None if tier is None else {"service_tier": tier}
        return float(model.calc_price(tokens, provider, price_context=context).total_price)

    def cost_in_batch(self, usage: Usage) -> float:
        """Return the cost in dollars of usage in a batch.

        Cached input counts in full: whether its discount applies in batches depends on the model, and a cap must hold
        for every model.
        """
        return self.batch_share * self.listed_cost(replace(usage, cached=0))

    def share(self, offload: OffloadConfig) -> float:
        """Return the usual cost of requests with these settings, as a fraction of the normal price."""
        if offload.batch:
            return self.batch_share
        return self.flex_share or 1.0 if offload.service_tier == FLEX else 1.0

    @property
    def retired(self) -> bool:
        """Whether genai-prices says that the model is retired, or will be soon."""
        return self.known is not None and self.known[1].deprecated is True

    @property
    def free(self) -> bool:
        return self.input == self.output == 0


def price_of(endpoint: Endpoint, given: Mapping[str, PriceConfig]) -> Price | None:
    """Return an endpoint's price, or None if it is unknown."""
    own, chat = given.get(endpoint.name), endpoint.chat
    if own is not None:
        price: Price | None = Price(own.input / 1e6, own.output / 1e6)
    elif chat.free:
        price = Price(0.0, 0.0)
    else:
        price = None if chat.prices is None else listed_price(chat.prices, endpoint.model)
    return price and replace(price, batch_share=chat.batch_share, flex_share=chat.flex_share)


_UNCAPPED = "To run without a cap, set offload.limits.usd to unlimited and leave offload.limits.usd_per_day unset"


def bounded_price(
    endpoint: Endpoint, given: Mapping[str, PriceConfig], *, capped: bool, reasons: bool = False
) -> Price:
    """Return an endpoint's price. ``reasons``: whether its model uses hidden reasoning.

    Raises ``ConfigurationError`` if there is a cap that cannot be enforced: the price is unknown (the error gives the
    line to add) or the model's hidden reasoning has no limit. Without a cap, an unknown price counts as zero.
    """
    price = price_of(endpoint, given)
    if not capped:
        return price or Price(0.0, 0.0)
    line, named = f"offload.prices.{endpoint.name}", shlex.quote(endpoint.full_name)
    if price is None:
        own = endpoint.name not in PROVIDERS and is_private(urlsplit(endpoint.base_url).hostname or "")
        free = f"If it costs nothing, set providers.{endpoint.name}.free = true. Otherwise, set " if own else "Set "
        prices = f"--set {line}.input=INPUT_USD --set {line}.output=OUTPUT_USD"
        raise ConfigurationError(
            f"the price of {endpoint.label} is unknown, so the cap cannot be enforced. {free}{line}.input and "
            f"{line}.output to the USD per million tokens. {_UNCAPPED}",
            next=f"swarmctl run --offload {named} {f'--set providers.{endpoint.name}.free=true' if own else prices}",
        )
    if reasons and not endpoint.chat.bounds_reasoning and not price.free:
        raise ConfigurationError(
            f"the hidden reasoning of {endpoint.label} has no limit, so the cap cannot be enforced. Switch it "
            f"off (offload.reasoning_effort = none) or use another model. {_UNCAPPED}",
            next=f"swarmctl run --offload {named} --set offload.reasoning_effort=none",
        )
    return price


def listed_price(source: str, name: str) -> Price | None:
    """Return a model's price in genai-prices, or None. ``source``: the provider's name there."""
    from genai_prices import Usage as Tokens
    from genai_prices import data_snapshot

    try:
        provider, model = data_snapshot.get_snapshot().find_provider_model(name, None, source, None)
    except LookupError:
        return None
    now = datetime.now(UTC)
    many = Tokens(input_tokens=_MANY, output_tokens=_MANY)
    hours = [
        model.calc_price(many, provider, genai_request_timestamp=now + timedelta(hours=hour)) for hour in range(24)
    ]
    price = Price(
        input=max(float(hour.input_price) for hour in hours) / _MANY,
        output=max(float(hour.output_price) for hour in hours) / _MANY,
        known=(provider, model),
    )
    # A row without token prices belongs to a model that is billed in another way. OpenRouter marks its free models.
    return None if price.free and not name.endswith(":free") else price


@dataclass(frozen=True, slots=True)
class PromptBound:
    """The most prompt tokens that a service may bill for a request."""

    sent: int
    """For the messages that were sent: a token is at least one byte."""
    least: int = 0
    """A low estimate for the messages that were sent: tokens of eight bytes."""
    added: int = 0
    """For what the service adds to a prompt, as far as earlier answers show it."""

    @classmethod
    def of(cls, contents: Sequence[str], added: int = 0) -> PromptBound:
        text = sum(len(content.encode()) for content in contents)
        return cls(text + BYTES_A_MESSAGE * len(contents), text // 8, added)

    @classmethod
    def of_tokens(cls, count: int, added: int = 0) -> PromptBound:
        """Return the bound of a prompt that is sent as token ids."""
        return cls(count + BYTES_A_MESSAGE, count, added)

    @property
    def tokens(self) -> int:
        return self.sent + self.added


def worst_case(price: Price, prompt: PromptBound, count: int, max_tokens: int) -> float:
    """Return the most a request can cost, in dollars: a choice has at most ``max_tokens``."""
    return prompt.tokens * price.input + count * max_tokens * price.output
