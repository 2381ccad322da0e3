"""One provider of a profile's chain: the way to its host, whether it takes the key, and whether it has the model."""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import ssl
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from hivemind_exp.errors import KeyProblem, ProviderError
from swarmctl.doctor.check import Context, Finding, failed, ok, skipped, warning
from swarmctl.keys.finder import Key, LocationKind, command_to_set
from swarmctl.keys.key_text import in_the_clear
from swarmctl.keys.probe import KeyTest, probe

if TYPE_CHECKING:
    from hivemind_exp.config import Config
    from hivemind_exp.offload.settings import Endpoint

START = {
    "vllm": "vllm serve {model} --port {port}",
    "sglang": "python -m sglang.launch_server --model-path {model} --port {port}",
    "llamacpp": "llama-server {option} {model} --port {port}",
    "ollama": "ollama serve",
    "lmstudio": "lms server start",
    "transformers": "transformers serve {model} --port {port}",
    "litellm": "litellm --model {model} --port {port}",
}
"""What starts a server on a machine of one's own."""
FETCH = {"ollama": "ollama pull {model}", "lmstudio": "lms get {model}"}
"""What gets a server the model that it lacks."""
_CONNECT_S = 3.0
"""For the connection, and once more for the encryption."""
_ANSWER_S = 4.0
"""Limit of one request."""
_DAY = 86400
_MOST = 5000
"""Names that are looked at: a list is the service's word, and may be of any length."""


@dataclass(frozen=True, slots=True)
class ApiService:
    """One provider of the chain with its model."""

    endpoint: Endpoint
    label: str
    """What its checks are called: its name, with the model where one provider stands there twice."""
    place: int
    """In ``offload.fallback``; -1 for the one that is asked first."""

    @property
    def trouble(self) -> Callable[..., Finding]:
        """How bad it is when it cannot be used: a run begins without those that only stand in."""
        return failed if self.place < 0 else warning

    @property
    def url(self) -> SplitResult:
        return urlsplit(self.endpoint.base_url)

    def command(self, templates: Mapping[str, str]) -> str | None:
        """Return the command that a table has for this provider's server, filled in; None where it has none."""
        template, model = templates.get(self.endpoint.name), self.endpoint.model
        # llama.cpp takes a file, or the name of a repository on the hub.
        option = "-m" if model.endswith(".gguf") else "-hf"
        return template and template.format(model=shlex.quote(model), port=self.url.port, option=option)

    def key(self, context: Context) -> Key | None:
        """Return its key as a run would find it; None where none is needed. Looks once. Raises KeyProblem."""
        name, pin = f"api.{self.endpoint.name}.key", context.config.offload.key
        return context.once(name, lambda: context.keys.find_for(self.endpoint, pin))

    def secret(self, context: Context) -> str | None:
        """Return what is shown to the service. Raises KeyProblem."""
        key = self.key(context)
        return key.value if key else None

    def with_model(self, context: Context, model: str) -> str:
        """Return the command that runs the same with another model of this provider."""
        if self.place < 0:
            return context.changed(offload__model=model)
        fallback = list(context.config.offload.fallback)
        fallback[self.place] = f"{self.endpoint.name}:{model}"
        return context.changed(offload__fallback=fallback)


def services(config: Config) -> list[ApiService]:
    """Return the providers in the order in which they are asked. Raises ConfigurationError."""
    from hivemind_exp.offload.settings import chain

    found = [(place, endpoint) for place, endpoint in enumerate(chain(config), -1) if endpoint is not None]
    names = Counter(endpoint.name for _, endpoint in found)
    return [
        ApiService(endpoint, endpoint.name if names[endpoint.name] == 1 else endpoint.label, place)
        for place, endpoint in found
    ]


def host(service: ApiService, context: Context) -> Finding:
    """Look up the host's name, connect to it and agree on an encryption. Nothing is sent."""
    if context.offline:
        return skipped("not looked for, offline")
    if (variable := _proxy(service)) is not None:
        return skipped(f"{service.url.hostname} is asked through the proxy of ${variable}")
    try:
        text = _reach(service, context)
    except ProviderError as error:
        return service.trouble(error.message, error.next)
    if in_the_clear(service.endpoint.base_url):
        return warning(f"{text}; unencrypted: prompts, answers and a key can be read on their way")
    return ok(text)


def _proxy(service: ApiService) -> str | None:
    """Return the variable that names the proxy through which a service is asked; None where it is asked directly."""
    found = [scheme for scheme in (service.url.scheme, "all") if urllib.request.getproxies().get(scheme)]
    direct = not found or urllib.request.proxy_bypass(service.url.hostname or "")
    return None if direct else f"{found[0].upper()}_PROXY"


def _reach(service: ApiService, context: Context) -> str:
    """Connect to a provider's host, unless through a proxy, and say how that went. Looks once.

    Raises ProviderError, with a command that cures it or shows more.
    """

    def look() -> str:
        try:
            return _connected(service.url)
        except OSError as error:
            raise _unreachable(service, context, error) from error

    return "" if _proxy(service) else context.once(f"api.{service.endpoint.name}.way", look)


def _connected(url: SplitResult) -> str:
    """Connect, and say how that went. Raises OSError."""
    name, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    began = time.monotonic()
    addresses = {entry[4][0] for entry in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)}
    with socket.create_connection((name, port), timeout=_CONNECT_S) as plain:
        several = "" if len(addresses) == 1 else f" ({len(addresses)} addresses)"
        told = f"{name}{several} takes connections, {1000 * (time.monotonic() - began):.0f} ms"
        if url.scheme != "https":
            return told
        with ssl.create_default_context().wrap_socket(plain, server_hostname=name) as encrypted:
            until = ssl.cert_time_to_seconds(str((encrypted.getpeercert() or {})["notAfter"]))
            days = int((until - time.time()) / _DAY)
            return f"{told}; {encrypted.version()}, its certificate is good for {days} days"


def _unreachable(service: ApiService, context: Context, error: OSError) -> ProviderError:
    """Return what went wrong, with a command that cures it or shows more."""
    name, where, start = service.url.hostname or "", service.endpoint.host, service.command(START)
    address = shlex.quote(f"{name}:{service.url.port or 443}")
    certificate = f"openssl s_client -connect {address} -servername {shlex.quote(name)} < /dev/null"
    said = error.strerror or str(error)
    said = said[:1].lower() + said[1:]
    match error:
        case socket.gaierror():
            look_up = "getent hosts" if shutil.which("getent") else "nslookup"
            return ProviderError(f"the name {name} cannot be resolved: {said}", next=f"{look_up} {shlex.quote(name)}")
        case ssl.SSLCertVerificationError():
            text = f"the certificate of {name} is not trusted: {error.verify_message}"
            return ProviderError(text, next=certificate)
        case ssl.SSLError():
            said = (error.reason or str(error)).lower().replace("_", " ")
            return ProviderError(f"{where} does not speak TLS as it should ({said})", next=certificate)
        case ConnectionRefusedError() if service.endpoint.chat.free:
            return ProviderError(f"nothing listens at {where}: is {service.endpoint.name} running?", next=start)
        case TimeoutError():
            said = f"no answer within {_CONNECT_S:g} s"
    return ProviderError(f"{where} cannot be reached: {said}", next=start or context.again("api"))


def when_reachable(look: Callable[[ApiService, Context], Finding]) -> Callable[[ApiService, Context], Finding]:
    """Make a check that asks a service only where it may be asked and can be; else the finding says why not."""

    def guarded(service: ApiService, context: Context) -> Finding:
        if context.offline:
            return skipped("not asked, offline")
        try:
            service.key(context)
            _reach(service, context)
        except KeyProblem:
            return skipped("not asked: there is no key")
        except ProviderError:
            return skipped("not asked: its host cannot be reached")
        return look(service, context)

    return guarded


@when_reachable
def answer(service: ApiService, context: Context) -> Finding:
    """Ask for what the service answers to valid keys only. Costs nothing."""
    probed, key = _ask(service, context), service.key(context)
    text, raw = f"{service.endpoint.host}: {probed.detail}", probed.answer
    match probed.result:
        case "valid" if raw is not None:
            what = "answers" if key is None else "key accepted"
            return ok(f"{what} in {raw.seconds:.2f} s, {probed.detail}; {limits(raw.headers)}")
        case "no_credit":
            return service.trouble(text)
        case "refused":
            # A key in the environment would still win over one that is saved.
            given = key is not None and key.spot.place is LocationKind.ENVIRONMENT
            cure = f"unset {key.spot.source}" if key and given else command_to_set(service.endpoint)
            return service.trouble(text, cure)
    if raw is not None and raw.status == 429:
        return warning(text, context.again("api"))
    if raw is not None and (raw.status == 404 or service.endpoint.chat.free):
        # Some servers have no list of models, or break over it, and generate all the same.
        return warning(f"{text}; whether it generates is seen with --deep", context.again("api", "--deep"))
    return service.trouble(text, context.again("api"))


def _ask(service: ApiService, context: Context) -> KeyTest:
    """Return what the service answers; asks once."""
    name, url, key = service.endpoint.name, service.endpoint.base_url, service.secret(context)
    return context.once(f"api.{name}.probe", lambda: probe(name, url, key, _ANSWER_S))


def limits(headers: Mapping[str, str]) -> str:
    """Say which rate limits an answer tells of. What is no number is not repeated: a header may hold anything."""
    found = []
    for unit in ("requests", "tokens"):
        told = (headers.get(f"x-ratelimit-{what}-{unit}", "") for what in ("remaining", "limit"))
        left, most = (int(text) if re.fullmatch("[0-9]{1,12}", text) else None for text in told)
        if most is not None:
            found.append(f"{most:,} {unit}" if left is None else f"{left:,} of {most:,} {unit} left")
    return f"limits: {', '.join(found)}" if found else "it tells of no rate limits"


@when_reachable
def model(service: ApiService, context: Context) -> Finding:
    """Look for the model in the service's list."""
    listed = _listed(service, context)
    if listed is None:
        return skipped("there is no list of models to look into")
    names = [name for name in listed[:_MOST] if name.isprintable()]
    wanted = service.endpoint.model
    if not names:
        return skipped(f"the list of models is empty, so whether {wanted} is there is not told")
    # Gemini lists with a prefix, Ollama with a tag.
    plain = [name.removeprefix("models/") for name in names]
    if not {wanted, wanted.removeprefix("models/"), f"{wanted}:latest"}.isdisjoint(plain):
        return ok(f"{wanted} is listed, one of {len(names):,}")
    near = get_close_matches(wanted, plain, n=1, cutoff=0.6)
    text = f"{wanted} is not among the {len(names):,} models listed" + (f"; {near[0]} is" if near else "")
    cure = service.command(FETCH) or (service.with_model(context, near[0]) if near else None)
    # Adapters and deployments of one's own are served without being listed.
    return (warning if service.endpoint.chat.serves_own_weights else service.trouble)(text, cure)


def _listed(service: ApiService, context: Context) -> tuple[str, ...] | None:
    probed = _ask(service, context)
    if probed.result != "valid" or probed.models is not None:
        return probed.models
    # The service answers about the key alone, and lists its models to everyone.
    endpoint = service.endpoint
    return probe(endpoint.name, endpoint.base_url, service.secret(context), _ANSWER_S, path="/models").models
