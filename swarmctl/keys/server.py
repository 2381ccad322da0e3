"""A server whose address the user gave: find out what is not typed, so that the address is enough."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from hivemind_exp.errors import ConfigurationError, KeyProblem, ProviderError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.offload.catalog import chat_models, read_list
from hivemind_exp.offload.settings import Endpoint
from hivemind_exp.providers import Chat
from hivemind_exp.proxies import is_loopback
from swarmctl.keys.finder import KeyFinder, key_locations
from swarmctl.keys.for_run import ask_for_key
from swarmctl.keys.probe import KeyTest, probe
from swarmctl.terminal.prompter import ON_SCREEN, Prompter
from swarmctl.terminal.safe_text import looks_like_key
from swarmctl.terminal.sentences import several
from swarmctl.terminal.views import Writer
from swarmctl.terminal.waiting import waiting

_VERSION = "/v1"
"""Where most servers have their API. It is often left out of an address."""
_NO_CHAT = "it lists none that completes chats"
_FEW = 5
"""Most models that a message names."""


@dataclass(frozen=True, slots=True)
class Server:
    """What a server said about itself."""

    base_url: str
    """The address to which the API's paths are appended."""
    needs_key: bool
    models: tuple[str, ...]
    """The models that complete chats; empty if the server did not list any."""
    problem: str
    """Why it listed none, for display."""
    refused: bool
    """Whether it listed none because the key is missing or wrong."""
    responded: bool = True
    """Whether it responded at all."""
    knows_key: bool = True
    """Whether its answer shows if it needs a key."""
    remedy: str | None = None
    """A command that fixes what kept it from answering; None if none is known."""

    @property
    def host(self) -> str:
        return urlsplit(self.base_url).netloc

    @property
    def is_free(self) -> bool:
        """Whether it counts as free of charge. A server that needs a key may be a proxy of a service that costs."""
        return not self.needs_key and is_loopback(urlsplit(self.base_url).hostname or "")


def server_at(url: str, name: str, model: str, prompter: Prompter, again: Callable[[str], str]) -> tuple[Server, str]:
    """Return the server of provider ``name`` at an address, and which of its models to use: ``model`` if not empty.

    On a terminal, asks for a key if the server lists its models only with one, and which model to use if it has
    several. ``again`` returns the command to suggest, with another value of ``--offload``.

    Raises KeyProblem without the key, ProviderError if the server lists no model and none is given, and
    ConfigurationError if there are several and no one can choose.
    """
    server = _asked(name, url)
    if server.refused and not model:
        server = _asked_with_new_key(name, server, prompter)
    return server, model or _only_or_chosen(server, url, prompter, again)


def says_free(name: str, server: Server) -> str:
    """Return a sentence on why a server counts as free, for one that listed its models without a key."""
    return (
        f"Provider {name} is the server at {server.base_url}. It counts as free, because it is on this machine and "
        "needs no key."
    )


def key_unknown(server: Server, *, free: bool) -> str:
    """Return a warning that it is unknown whether a server needs a key. ``free``: it counts as free."""
    why = " It counts as free, because it is on this machine and no key is saved for it." if free else ""
    return (
        f"warning: the server at {server.base_url} did not list its models ({server.problem}), so it is unknown "
        f"whether it needs a key.{why} To check it once it runs:"
    )


def _asked(name: str, url: str) -> Server:
    """Ask a server for its models, with the provider's key if there is one. Takes at most a few seconds."""
    key = None
    if key_locations(name, os.environ):
        key = KeyFinder(Prompter(), os.environ).find(name, base_url=url)
    secret = None if key is None else key.value
    with waiting(Writer(sys.stderr), f"asking {urlsplit(url).netloc} for its models"):
        tested = probe(name, url, secret, path="/models")
        if tested.result == "not_understood" and urlsplit(url).path in ("", "/"):
            below = probe(name, url + _VERSION, secret, path="/models")
            if below.result in ("valid", "refused"):
                url, tested = url + _VERSION, below
    refused = tested.result == "refused"
    problem = _NO_CHAT if tested.result == "valid" else tested.detail
    knows = refused or tested.result == "valid"
    needs_key, responded = key is not None or refused, tested.answer is not None
    return Server(url, needs_key, _models(tested), problem, refused, responded, knows, tested.next)


def _models(tested: KeyTest) -> tuple[str, ...]:
    rows = read_list(tested.answer.body) if tested.answer is not None and tested.result == "valid" else None
    return tuple(each.id for each in chat_models(rows or [], Chat()))


def _asked_with_new_key(name: str, server: Server, prompter: Prompter) -> Server:
    endpoint = Endpoint(name, server.base_url, "", Chat(), needs_key=True)
    if not prompter.can_ask:
        raise KeyProblem(f"cannot ask {server.host} for its models: {server.problem}", next=endpoint.key_command)
    prompter.say(f"Cannot ask {server.host} for its models: {server.problem}.")
    ask_for_key(endpoint)
    return _asked(name, server.base_url)


def _only_or_chosen(server: Server, url: str, prompter: Prompter, again: Callable[[str], str]) -> str:
    """Return the server's only model, or the one that the user chooses."""
    if not server.models:
        if server.remedy is not None:
            raise ProviderError(f"cannot ask {url} for its models: {server.problem}", next=server.remedy)
        what = "Name the one that it serves" if server.responded else "Start the server or correct the URL"
        failed = f"cannot ask {url} for its models: {server.problem}"
        empty = f"{url} lists no model that completes chats"
        raise ProviderError(
            f"{empty if server.problem == _NO_CHAT else failed}. {what}",
            next=again(f"{url}:MODEL" if server.responded else url),
        )
    first, *others = server.models
    if not others:
        return first
    listed = f"{server.host} has {several(len(server.models), 'model')}: {_named(server.models)}"
    if not prompter.can_ask:
        raise ConfigurationError(f"{listed}. Name one", next=again(f"{url}:{first}"))
    prompter.say(f"{listed}.")

    def check(text: str) -> None:
        if text not in server.models:
            key = f". If it is a key: {ON_SCREEN[:1].lower()}{ON_SCREEN[1:]}" if looks_like_key(text) else ""
            raise ConfigurationError(f"the server does not list this model{key}")

    return prompter.answer("Model to generate with", check, default=first, words=server.models)


def _named(models: Sequence[str]) -> str:
    more = len(models) - _FEW
    return ", ".join([foreign(each, 100) for each in models[:_FEW]] + ([f"and {more} more"] if more > 0 else []))
