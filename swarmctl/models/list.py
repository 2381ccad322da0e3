"""``swarmctl models``: ask a provider for its models, and print them with their prices."""

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from urllib.parse import urlsplit

from hivemind_exp.config import Config, ProviderConfig
from hivemind_exp.errors import NodeError, ProviderError
from hivemind_exp.offload.catalog import ListedModel, chat_models, read_list
from hivemind_exp.offload.settings import Endpoint, endpoint_of, split
from hivemind_exp.providers import PROVIDERS
from hivemind_exp.proxies import is_loopback
from swarmctl.keys.finder import KeyFinder, address_of
from swarmctl.keys.local_servers import ANY_MODEL
from swarmctl.keys.probe import probe
from swarmctl.nodes.lookup import provider_of_a_node
from swarmctl.settings.command_line import resolved_options
from swarmctl.settings.offload_target import is_address, provider_name, split_target
from swarmctl.settings.options import RunOptions
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.table import or_dash, print_table
from swarmctl.terminal.views import Writer

_HEADINGS = ("model", "input ($/M)", "output ($/M)", "context", "reasons")
"""Prices are in USD per million tokens."""


def list_models(
    provider: str, profile: str | None, assignments: Sequence[str] = (), *, as_json: bool, no_input: bool
) -> None:
    """Print a provider's models. Raises ``NodeError`` if it is unknown, has no key, or does not send its list."""
    target, _ = split_target(provider)
    if is_address(target):
        provider = provider_name(target)
        assignments = [*assignments, *([] if provider in PROVIDERS else [f"providers.{provider}.base_url={target}"])]
    wanted = RunOptions(profile=profile, assignments=tuple(assignments), no_input=True)
    config = resolved_options(wanted).config
    if provider not in (*PROVIDERS, *config.providers) and (row := provider_of_a_node(provider)):
        own = {
            provider: ProviderConfig(
                base_url=row["base_url"], needs_key=bool(row.get("needs_key")), free=bool(row.get("free"))
            )
        }
        config = config.model_copy(update={"providers": config.providers | own})
        # Only this node's settings have it, so the suggested commands need its address.
        assignments = [*assignments, f"providers.{provider}.base_url={row['base_url']}"]
    with _keeping(profile, assignments):
        endpoint = endpoint_of(config, provider, "MODEL")  # the model does not matter here
        typed = {each.partition("=")[0] for each in assignments}
        priced = provider in config.offload.prices or f"providers.{provider}.free" in typed
        local = is_address(target) and is_loopback(urlsplit(target).hostname or "")
        found = _ask(endpoint, config, free_without_key=local and not priced, no_input=no_input or as_json)
    if as_json:
        chat = endpoint.chat
        about = {"batch_price": chat.batch_share if chat.batch else None, "flex_price": chat.flex_share}
        print_json(provider=endpoint.name, host=endpoint.host, **about, models=[asdict(each) for each in found])
        return
    if not found:
        Writer(sys.stderr)(f"{endpoint.name} lists no model that completes chats.")
        return
    print_table([_cells(each) for each in found], _HEADINGS, right=_HEADINGS[1:4])


@contextmanager
def _keeping(profile: str | None, assignments: Sequence[str]) -> Iterator[None]:
    """Let the command that an error suggests list models, too, with the same profile and settings if it needs them."""
    try:
        yield
    except NodeError as error:
        words = shlex.split(error.next or "")
        if words[:3] == ["swarmctl", "run", "--offload"]:
            # Listing models needs a server's address, but no model.
            words = ["swarmctl", "models", *words[3:6]]
        if words[:1] == ["swarmctl"] and words[1] in ("doctor", "models", "run"):
            given = [word for each in assignments for word in ("--set", each)]
            words += [*(() if profile is None else ("--profile", profile)), *given]
        error.next = shlex.join(words) or None
        raise


def _ask(endpoint: Endpoint, config: Config, *, free_without_key: bool, no_input: bool) -> list[ListedModel]:
    """Return a provider's models. ``free_without_key``: a typed address on this machine, as in ``run``."""
    key = KeyFinder(Prompter(silent=no_input), os.environ).find_for(endpoint, config.offload.key)
    tested = probe(endpoint.name, endpoint.base_url, key.value if key else None, path="/models")
    rows = read_list(tested.answer.body) if tested.answer is not None and tested.result == "valid" else None
    if rows is None:
        first = endpoint.name in (split(config.offload.provider)[0], config.judge.provider)
        used = "" if first else f" --set offload.provider={endpoint.name}:{endpoint.chat.model or ANY_MODEL}"
        testable = key is not None and address_of(endpoint.name) is not None
        check = f"swarmctl keys test {endpoint.name}" if testable else f"swarmctl doctor api{used}"
        text = f"{endpoint.name} did not send its list of models: {tested.detail}"
        raise ProviderError(text, next=tested.next or check)
    free = endpoint.chat.free or (free_without_key and key is None)
    return chat_models(rows, replace(endpoint.chat, free=free))


def _cells(model: ListedModel) -> tuple[str, ...]:
    prices = (or_dash(price, "{:g}".format) for price in (model.input, model.output))
    reasons = or_dash(model.reasons, lambda yes: "yes" if yes else "no")
    return (model.id, *prices, or_dash(model.context), reasons)
