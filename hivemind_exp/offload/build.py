"""Builds the API side of a node from its configuration; ``OpenAIModelWrapper`` offers it as a library."""

import hashlib
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from hivemind_exp.config import Config
from hivemind_exp.errors import KeyProblem
from hivemind_exp.events import Emit, OffloadEvent, WarningEvent, discard
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.node_charter import node_charter
from hivemind_exp.money import dollars
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.api.batch import BatchClient
from hivemind_exp.offload.api.chat import ChatClient, check_sdk
from hivemind_exp.offload.api.dialect import SamplingParams
from hivemind_exp.offload.batch.job import warn_of_orphans
from hivemind_exp.offload.engine import ApiEngine
from hivemind_exp.offload.judge import api_configs, check_judge, endpoints_of, grades_a_round, is_judged
from hivemind_exp.offload.ledger import Ledger
from hivemind_exp.offload.loss_descriptions import describe_loss
from hivemind_exp.offload.prices import Price, bounded_price
from hivemind_exp.offload.rate_limit import RateLimiter
from hivemind_exp.offload.request_filler import ApiUse
from hivemind_exp.offload.router import ProviderService
from hivemind_exp.offload.rules import check_offload
from hivemind_exp.offload.settings import (
    Endpoint,
    chain,
    first_endpoint,
    is_distilled,
    reasons,
    requests_a_round,
)
from hivemind_exp.offload.spending import known_spending, read_total, write_total
from hivemind_exp.providers import PROVIDERS
from hivemind_exp.rollouts.types import CompletionRequest
from hivemind_exp.secrets import Secrets
from hivemind_exp.stop import StopFlag


def make_offload(
    config: Config, files: NodeFiles, secrets: Secrets, emit: Emit, stop: StopFlag, *, announce: bool = True
) -> ApiEngine:
    """Start the API side in this process, for a configuration that offloads or has a judge.

    With ``announce``, emit an ``offload`` event (provider, model, price) for each use, and warn about batches that are
    left over. Raises the same as ``open_offload``.
    """
    check_offload(config)
    check_judge(config)
    check_sdk()
    limits = config.offload.limits
    uses = api_configs(config)
    prices = {each.full_name: price for use in uses for each, price in _prices(use).items()}
    for each in endpoints_of(config):
        if each.needs_key and secrets.get(each.name) is None:
            raise KeyProblem(f"no key for {each.name}", next=each.key_command)
    a_round = sum(_requests_a_round(config, use) for use in uses)
    ledger = Ledger(files.ledger, limits, partial(write_total, files.spent), round_requests=a_round)
    missing = ledger.restore(known_spending(files, read_total(files.spent), ledger.spent, ledger.requests))
    if missing:
        message = f"the ledger lacked {dollars(missing)} of what this node has spent, which counts toward the cap again"
        emit(WarningEvent(code="ledger_restored", message=message))
    if announce:
        for use in uses:
            _announce(use, prices[first_endpoint(use).full_name], ledger, emit)
        batched = [first_endpoint(use) for use in uses if use.offload.batch]
        warn_of_orphans(ledger, (batched[0].name, batched[0].model) if batched else None, emit)
    limiters: dict[str, RateLimiter] = {}

    def limiter(name: str) -> RateLimiter:
        """Return what limits all requests to a provider, whatever they are for."""
        if name not in limiters:
            limiters[name] = RateLimiter(limits.concurrency, limits.requests_per_minute, limits.tokens_per_minute)
        return limiters[name]

    def service(use: Config, place: int, each: Endpoint) -> ProviderService:
        client = ChatClient(each, secrets.get(each.name), seconds=limits.timeout, reasons=reasons(use, each))
        batches = BatchClient(client, seconds=limits.timeout) if use.offload.batch and not place else None
        table = SamplingParams.of(use).table
        return ProviderService(each, client, limiter(each.name), prices[each.full_name], table, batches=batches)

    def services(use: Config) -> Sequence[ProviderService | None]:
        return [None if each is None else service(use, place, each) for place, each in enumerate(chain(use))]

    offload = ApiEngine(
        [
            ApiUse(
                partial(services, use),
                use.offload.counts_as,
                SamplingParams.of(use),
                on_limit_local=use.offload.on_limit == "local",
                scores=is_distilled(use),
            )
            for use in uses
        ],
        journal=(files.journal, node_charter(config, files)),
        ledger=ledger,
        emit=emit,
        stop=stop,
    )
    offload.start()
    return offload


def _prices(use: Config) -> dict[Endpoint, Price]:
    """Return the price of each provider in the chain. Raises ``ConfigurationError`` if a cap needs an unknown one."""
    limits, prices = use.offload.limits, use.offload.prices
    endpoints = [each for each in chain(use) if each is not None]
    return {each: bounded_price(each, prices, capped=limits.capped, reasons=reasons(use, each)) for each in endpoints}


def _requests_a_round(config: Config, use: Config) -> int:
    return grades_a_round(config) if is_judged(use) else requests_a_round(use, first_endpoint(use))


def _announce(config: Config, price: Price, ledger: Ledger, emit: Emit) -> None:
    endpoint = first_endpoint(config)
    share = 1e6 * price.share(config.offload)
    emit(
        OffloadEvent(
            provider=endpoint.name,
            model=endpoint.model,
            host=endpoint.host,
            kind=config.offload.counts_as,
            loss=describe_loss(config),
            training=endpoint.chat.training,
            usd_per_million_input=round(price.input * share, 6),
            usd_per_million_output=round(price.output * share, 6),
            **ledger.state(),
        )
    )


class OpenAIModelWrapper:
    """Completes prompts through an OpenAI-compatible API, with the retries, rate limits and cap of ``--offload``.

    The class has the name that an old branch of RL Swarm used for its API. A node does not need it: set
    ``offload.provider``.
    """

    def __init__(
        self,
        model_name: str = "gpt-6-luna",
        *,
        provider: str = "openai",
        usd: float = 5.00,
        max_tokens: int = 512,
        temperature: float = 1.0,
    ) -> None:
        """Choose the provider, model and limits. ``usd`` is the cap for each call of ``generate``.

        The API key comes from the provider's environment variable. Raises ``KeyProblem`` if that is not set.
        """
        self._config = Config.model_validate(
            {
                "offload": {
                    "provider": provider,
                    "model": model_name,
                    "fallback": [],
                    "max_tokens": max_tokens,
                    "limits": {"usd": usd},
                },
                "generation": {"temperature": temperature},
            }
        )
        row = PROVIDERS.get(provider)
        variables = row.variables if row else ()
        key = next((value for name in variables if (value := os.environ.get(name, "").strip())), None)
        if key is None and row is not None and row.needs_key:
            raise KeyProblem(f"${variables[0]} is not set", next=f"swarmctl run --offload {provider}")
        self._secrets = Secrets({} if key is None else {provider: key})

    def generate(self, prompts: Sequence[str], count: int = 1) -> list[list[str]]:
        """Return ``count`` completions of each prompt, or fewer if some requests bring nothing usable.

        Raises ``NodeError`` for a rejected API key, a reached cap or an unusable provider.
        """
        orders = []
        for i, prompt in enumerate(prompts):
            name, messages = (
                f"{i} {hashlib.sha256(prompt.encode()).hexdigest()}",
                ({"role": "user", "content": prompt},),
            )
            orders.append(CompletionRequest(0, "answer", name, messages, tuple(range(count)), version=0))
        with TemporaryDirectory() as directory:
            files = NodeFiles(Path(directory))
            Journal(files.journal, node_charter(self._config, files)).close()
            with closing(make_offload(self._config, files, self._secrets, discard, StopFlag())) as offload:
                offload.wait_for_probe()
                offload.submit(orders)
                offload.wait(0)
            with closing(sqlite3.connect(files.journal)) as db:
                query = "SELECT text FROM completions WHERE question=? ORDER BY idx"
                return [[text for (text,) in db.execute(query, (order.question,))] for order in orders]
