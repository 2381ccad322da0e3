"""Builds the API's side of a node from its configuration; and that side as a library, ``OpenAIModelWrapper``."""

import hashlib
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from hivemind_exp.config import Config, charter_id
from hivemind_exp.errors import KeyProblem
from hivemind_exp.events import Emit, OffloadEvent, discard
from hivemind_exp.journal.journal import Journal
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.api.batch import BatchClient
from hivemind_exp.offload.api.chat import ChatClient, SamplingParams, check_sdk
from hivemind_exp.offload.batch.job import warn_of_orphans
from hivemind_exp.offload.engine import Engine
from hivemind_exp.offload.ledger import BATCH_SHARE, Ledger, Price, bounded_price
from hivemind_exp.offload.rate_limit import RateLimiter
from hivemind_exp.offload.router import ProviderService
from hivemind_exp.offload.settings import Endpoint, chain, check_offload, describe_loss, first_endpoint, resolved_kind
from hivemind_exp.providers import PROVIDERS
from hivemind_exp.rollouts.types import CompletionRequest
from hivemind_exp.secrets import Secrets
from hivemind_exp.stop import StopFlag


def make_offload(
    config: Config, files: NodeFiles, secrets: Secrets, emit: Emit, stop: StopFlag, *, announce: bool = True
) -> Engine:
    """Start the API's side in this process, for a configuration that offloads. Raises as ``open_offload``.

    Without ``announce`` it is not told again what is asked, at which price.
    """
    check_offload(config)
    check_sdk()
    limits, prices = config.offload.limits, config.offload.prices
    services = [
        None if each is None else (each, bounded_price(each, prices, capped=limits.capped)) for each in chain(config)
    ]
    for endpoint in chain(config):
        if endpoint is not None and endpoint.needs_key and secrets.get(endpoint.name) is None:
            raise KeyProblem(f"there is no key for {endpoint.name}", next=f"swarmctl keys set {endpoint.name}")
    ledger = Ledger(files.ledger, limits)
    if announce:
        _announce(config, services[0], ledger, emit)

    def make_chain() -> Sequence[ProviderService | None]:
        batched = config.offload.batch
        return [
            None if each is None else _service(config, *each, secrets, batched=batched and not place)
            for place, each in enumerate(services)
        ]

    offload = Engine(
        make_chain,
        resolved_kind(config),
        SamplingParams(  # as this machine samples
            temperature=config.generation.temperature,
            max_tokens=config.generation.max_completion_tokens,
            reasoning_tokens=config.offload.reasoning_tokens,
            reasoning_effort=config.offload.reasoning_effort,
        ),
        on_limit_local=config.offload.on_limit == "local",
        journal=(files.journal, charter_id(config)),
        ledger=ledger,
        emit=emit,
        stop=stop,
    )
    offload.start()
    return offload


def _service(config: Config, endpoint: Endpoint, price: Price, secrets: Secrets, *, batched: bool) -> ProviderService:
    limits = config.offload.limits
    client = ChatClient(endpoint, secrets.get(endpoint.name), seconds=limits.timeout)
    limiter = RateLimiter(limits.concurrency, limits.requests_per_minute, limits.tokens_per_minute)
    batches = BatchClient(client, seconds=limits.timeout) if batched else None
    return ProviderService(endpoint, client, limiter, price, batches=batches)


def _announce(config: Config, first: tuple[Endpoint, Price] | None, ledger: Ledger, emit: Emit) -> None:
    endpoint = first_endpoint(config)
    price = Price(0, 0) if first is None else first[1]
    share = 1e6 * (BATCH_SHARE if config.offload.batch else 1)
    emit(
        OffloadEvent(
            provider=endpoint.name,
            model=endpoint.model,
            host=endpoint.host,
            kind=resolved_kind(config),
            loss=describe_loss(config),
            training=endpoint.chat.training,
            usd_per_million_input=round(price.input * share, 6),
            usd_per_million_output=round(price.output * share, 6),
            usd_total=round(ledger.spent, 8),
            usd_cap=ledger.cap,
        )
    )
    warn_of_orphans(ledger, (endpoint.name, endpoint.model) if config.offload.batch else None, emit)


class OpenAIModelWrapper:
    """The name under which an old branch of RL Swarm knew its API.

    Completes prompts by an OpenAI-compatible API, with everything that ``swarmctl run --offload`` has: retries,
    limits, a cap on what it may cost. A node does not need it: set ``offload.provider``.
    """

    def __init__(
        self,
        model_name: str = "gpt-4o-mini",
        *,
        provider: str = "openai",
        usd: float = 5.00,
        max_tokens: int = 512,
        temperature: float = 1.0,
    ) -> None:
        """Say what to ask. ``usd`` bounds each call of ``generate``.

        The key comes from the provider's own environment variable. Raises ``KeyProblem`` where that is not set.
        """
        self._config = Config.model_validate(
            {
                "offload": {"provider": provider, "model": model_name, "fallback": [], "limits": {"usd": usd}},
                "generation": {"max_completion_tokens": max_tokens, "temperature": temperature},
            }
        )
        self._secrets = _secrets(provider)

    def generate(self, prompts: Sequence[str], count: int = 1) -> list[list[str]]:
        """Return ``count`` completions of each prompt; fewer where nothing usable came.

        Raises ``NodeError``: a key refused, a cap reached, a provider that cannot be used.
        """
        names = [f"{i} {hashlib.sha256(prompt.encode()).hexdigest()}" for i, prompt in enumerate(prompts)]
        orders = [
            CompletionRequest(0, "answer", name, ({"role": "user", "content": prompt},), tuple(range(count)), version=0)
            for name, prompt in zip(names, prompts, strict=True)
        ]
        with TemporaryDirectory() as directory:
            files = NodeFiles(Path(directory))
            Journal(files.journal, charter_id(self._config)).close()
            with closing(make_offload(self._config, files, self._secrets, discard, StopFlag())) as offload:
                offload.wait_for_probe()
                offload.submit(orders)
                offload.wait(0)
            return [_texts(files.journal, order) for order in orders]


def _secrets(provider: str) -> Secrets:
    row = PROVIDERS.get(provider)
    variables = row.variables if row else ()
    key = next((value for name in variables if (value := os.environ.get(name, "").strip())), None)
    if key is None and row is not None and row.needs_key:
        raise KeyProblem(f"${variables[0]} is not set", next=f"swarmctl run --offload {provider}")
    return Secrets({} if key is None else {provider: key})


def _texts(journal: Path, order: CompletionRequest) -> list[str]:
    with closing(sqlite3.connect(journal)) as db:
        rows = db.execute("SELECT text FROM completions WHERE question=? ORDER BY idx", (order.question,))
        return [text for (text,) in rows]
