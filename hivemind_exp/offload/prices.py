"""What a completion costs: from the profile, or from genai-prices, which is shipped and asks no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from hivemind_exp.config import PriceConfig
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.offload.settings import Endpoint

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, Provider

BATCH_SHARE = 0.5
"""Part of its price that a token costs in a batch."""
_MANY = 10_000_000
"""Tokens beyond every tier: what a token costs there is the most it can cost."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request, as the service reports them."""

    prompt: int
    completion: int
    """Hidden reasoning included."""
    cached: int = 0
    """Part of ``prompt`` that came from the service's cache."""
    reasoning: int = 0
    """Part of ``completion`` that nobody sees."""


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars a token."""

    input: float
    output: float
    """The highest rate that may apply, at any hour and size: what a reservation is made at."""
    known: tuple[Provider, ModelInfo] | None = None
    """The row of genai-prices, which knows of tiers, hours and cached input."""

    def cost(self, usage: Usage) -> float:
        """Return dollars for what was used."""
        if self.known is None:
            return usage.prompt * self.input + usage.completion * self.output
        from genai_prices import Usage as Tokens

        provider, model = self.known
        tokens = Tokens(
            input_tokens=usage.prompt,
            output_tokens=usage.completion,
            cache_read_tokens=min(usage.cached, usage.prompt),
        )
        return float(model.calc_price(tokens, provider).total_price)

    def cost_in_batch(self, usage: Usage) -> float:
        """Return dollars for what was used in a batch.

        Cached input counts as any other: whether its discount holds in batches depends on the model, and a cap must
        hold for every one.
        """
        return BATCH_SHARE * self.cost(replace(usage, cached=0))

    @property
    def free(self) -> bool:
        return self.input == self.output == 0


def price_of(endpoint: Endpoint, given: Mapping[str, PriceConfig]) -> Price | None:
    """Return what an endpoint costs; None where nobody knows."""
    own = given.get(endpoint.name)
    if own is not None:
        return Price(own.input / 1e6, own.output / 1e6)
    if endpoint.chat.free:
        return Price(0.0, 0.0)
    return None if endpoint.chat.prices is None else _listed(endpoint.chat.prices, endpoint.model)


def bounded_price(endpoint: Endpoint, given: Mapping[str, PriceConfig], *, capped: bool) -> Price:
    """Return what an endpoint costs.

    Raises ``ConfigurationError`` where a cap is to be kept and cannot: the price is not known, with the line to add, or
    the model thinks without bound. Without a cap an unknown price counts as nothing.
    """
    price = price_of(endpoint, given)
    if not capped:
        return price or Price(0.0, 0.0)
    line = f"offload.prices.{endpoint.name}"
    if price is None:
        raise ConfigurationError(
            f"the price of {endpoint.label} is not known, so no cap can be kept. Say what a million tokens cost, such "
            f"as [{line}] input = 0.15, output = 0.60 in the profile, or lift the cap: offload.limits.usd = "
            '"unlimited" without usd_per_day',
            next=f"swarmctl run --offload {endpoint.label} --set {line}.input=0.15 --set {line}.output=0.60",
        )
    if endpoint.reasons and not endpoint.chat.bounds_reasoning and not price.free:
        raise ConfigurationError(
            f"{endpoint.label} thinks unseen and without bound, so no cap can be kept: ask a model that does not, or "
            'lift the cap: offload.limits.usd = "unlimited" without usd_per_day',
            next=f"swarmctl run --offload {endpoint.name}",
        )
    return price


def _listed(source: str, name: str) -> Price | None:
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
    return Price(
        input=max(float(hour.input_price) for hour in hours) / _MANY,
        output=max(float(hour.output_price) for hour in hours) / _MANY,
        known=(provider, model),
    )
