"""One provider of a profile's chain: whether its host is reachable, accepts the key and has the model."""

from __future__ import annotations

import re
import shlex
import shutil
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from hivemind_exp.connection_errors import TRUST
from hivemind_exp.errors import KeyProblem, ProviderError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.proxies import proxy_for
from swarmctl.doctor.check import LATER, Context, Finding, failed, ok, skipped, unknown, warning
from swarmctl.keys.finder import Key, LocationKind
from swarmctl.keys.http_client import timed_out
from swarmctl.keys.key_text import in_the_clear
from swarmctl.keys.local_servers import FETCH, server_command
from swarmctl.keys.probe import KeyTest, probe
from swarmctl.terminal.sentences import several

if TYPE_CHECKING:
    from hivemind_exp.config import Config
    from hivemind_exp.offload.settings import Endpoint

_CONNECT_S = 3.0
"""Limit for the connection, and again for the TLS handshake."""
_ANSWER_S = 4.0
"""Limit of one request."""
_DAY = 86400
_MOST = 5000
"""The number of names that are read from a model list, because a service may send one of any length."""


@dataclass(frozen=True, slots=True)
class ApiService:
    """One provider of the chain with its model."""

    endpoint: Endpoint
    label: str
    """The prefix of its checks: the provider's name, followed by the model if the chain has the provider twice; of
    several replicas, by the host."""
    place: int
    """Position in ``offload.fallback``; -1 for the first choice, and for a judge."""
    config: Config
    """The settings of its requests, to generate or to grade (``judge.api_configs``)."""

    @property
    def trouble(self) -> Callable[..., Finding]:
        """The finding for an unusable provider: a failure for the first choice, a warning for a fallback."""
        return failed if self.place < 0 else warning

    @property
    def url(self) -> SplitResult:
        return urlsplit(self.endpoint.base_url)

    def key(self, context: Context) -> Key | None:
        """Return the key as a run would find it; None if none is needed. Looks only once. Raises KeyProblem."""
        name, pin = f"api.{self.endpoint.name}.key", context.config.offload.key
        return context.once(name, lambda: context.keys.find_for(self.endpoint, pin))

    def secret(self, context: Context) -> str | None:
        """Return the secret that is sent to the service. Raises KeyProblem."""
        key = self.key(context)
        return key.value if key else None

    def with_model(self, context: Context, model: str) -> str:
        """Return the ``run`` command with another model of this provider."""
        if self.place < 0:
            judged = self.config.judge.provider != "off"
            return context.changed(**{"judge__model" if judged else "offload__model": model})
        fallback = list(context.config.offload.fallback)
        fallback[self.place] = f"{self.endpoint.name}:{model}"
        return context.changed(offload__fallback=fallback)


def services(config: Config) -> list[ApiService]:
    """Return the providers in the order of the chain, then the judge. Raises ConfigurationError.

    One that does both appears once: as the judge if it is only a fallback otherwise, because a judge has none.
    """
    from hivemind_exp.offload.judge import api_configs
    from hivemind_exp.offload.settings import chain, replica_endpoints

    found: dict[Endpoint, tuple[int, Config]] = {}
    for use in api_configs(config):
        replicas = [(-1, endpoint) for endpoint in replica_endpoints(use)]
        for place, endpoint in [*replicas, *enumerate(chain(use), -1)]:
            if endpoint is not None and (endpoint not in found or place < found[endpoint][0]):
                found[endpoint] = place, use
    names = Counter(endpoint.name for endpoint in found)
    full = Counter(endpoint.full_name for endpoint in found)

    def label(endpoint: Endpoint) -> str:
        if names[endpoint.name] == 1:
            return endpoint.name
        return endpoint.full_name if full[endpoint.full_name] == 1 else f"{endpoint.name}@{endpoint.host}"

    return [ApiService(endpoint, label(endpoint), place, use) for endpoint, (place, use) in found.items()]


def host(service: ApiService, context: Context) -> Finding:
    """Resolve the host's name, connect and complete the TLS handshake. Sends no request."""
    if context.offline:
        return skipped("not checked (offline)")
    if (proxy := proxy_for(service.endpoint.base_url)) is not None:
        return skipped(f"not checked: {service.url.hostname} is reached through the proxy in ${proxy.variable}")
    try:
        text = _reach(service, context)
    except ProviderError as error:
        return (unknown if timed_out(error) else service.trouble)(error.message, error.next)
    if in_the_clear(service.endpoint.base_url):
        return warning(f"{text}; unencrypted: others on the network can read prompts, completions and the key")
    return ok(text)


def _reach(service: ApiService, context: Context) -> str:
    """Connect to a provider's host and return a description; empty behind a proxy. Connects only once.

    Raises ProviderError with a command that fixes the problem or shows more.
    """

    def look() -> str:
        try:
            return _connected(service.url)
        except OSError as error:
            raise _unreachable(service, context, error) from error

    return "" if proxy_for(service.endpoint.base_url) else context.once(f"api.{service.endpoint.base_url}.way", look)


def _connected(url: SplitResult) -> str:
    """Connect and return a description of the connection. Raises OSError."""
    name, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    began = time.monotonic()
    addresses = {entry[4][0] for entry in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)}
    with socket.create_connection((name, port), timeout=_CONNECT_S) as plain:
        also = "" if len(addresses) == 1 else f" ({len(addresses)} addresses)"
        told = f"connected to {name}{also} in {1000 * (time.monotonic() - began):.0f} ms"
        if url.scheme != "https":
            return told
        with ssl.create_default_context().wrap_socket(plain, server_hostname=name) as encrypted:
            until = ssl.cert_time_to_seconds(str((encrypted.getpeercert() or {})["notAfter"]))
            days = int((until - time.time()) / _DAY)
            return f"{told}; {encrypted.version()}, certificate valid for {days} days"


def _unreachable(service: ApiService, context: Context, error: OSError) -> ProviderError:
    """Return the error with a command that fixes the problem or shows more."""
    from swarmctl.serving.by_hand import start_command  # imports pydantic, which is slow

    name, where = service.url.hostname or "", service.endpoint.host
    start = start_command(service.config, service.endpoint)
    address = shlex.quote(f"{name}:{service.url.port or 443}")
    certificate = f"openssl s_client -connect {address} -servername {shlex.quote(name)} < /dev/null"
    said = error.strerror or str(error)
    said = said[:1].lower() + said[1:]
    match error:
        case socket.gaierror():
            look_up = "getent hosts" if shutil.which("getent") else "nslookup"
            return ProviderError(f"cannot resolve {name}: {said}", next=f"{look_up} {shlex.quote(name)}")
        case ssl.SSLCertVerificationError():
            text = f"the certificate of {name} is not trusted: {error.verify_message}. {TRUST}"
            bundle = context.environment.get("REQUESTS_CA_BUNDLE")  # other programs use it, but these libraries don't
            unused = bundle and not context.environment.get("SSL_CERT_FILE")
            return ProviderError(text, next='export SSL_CERT_FILE="$REQUESTS_CA_BUNDLE"' if unused else certificate)
        case ssl.SSLError():
            said = (error.reason or str(error)).lower().replace("_", " ")
            return ProviderError(f"TLS handshake with {where} failed: {said}", next=certificate)
        case ConnectionRefusedError() if not service.endpoint.needs_key:
            advice = "Start it" if start else "Start the server, then check again"
            return ProviderError(f"nothing is listening at {where}. {advice}", next=start or context.again("api"))
        case TimeoutError():
            said = f"no response within {_CONNECT_S:g} s"
    return ProviderError(f"cannot reach {where}: {said}", next=start or context.again("api"))


def when_reachable(look: Callable[[ApiService, Context], Finding]) -> Callable[[ApiService, Context], Finding]:
    """Wrap a check so that it runs only if the service may be contacted and is reachable; else it is skipped."""

    def guarded(service: ApiService, context: Context) -> Finding:
        if context.offline:
            return skipped("not checked (offline)")
        try:
            service.key(context)
            _reach(service, context)
        except KeyProblem:
            return skipped("not checked: no key")
        except ProviderError:
            return skipped("not checked: cannot reach the host")
        return look(service, context)

    return guarded


@when_reachable
def answer(service: ApiService, context: Context) -> Finding:
    """Send a free request that needs a valid key."""
    probed, key = _ask(service, context), service.key(context)
    text, raw = f"{service.endpoint.host}: {probed.detail}", probed.answer
    match probed.result:
        case "valid" if raw is not None:
            what = "responded" if key is None else "key accepted"
            return ok(f"{what} in {raw.seconds:.2f} s, {probed.detail}; {limits(raw.headers)}")
        case "no_credit":
            return service.trouble(text)
        case "refused":
            # A key in the environment would still override a saved one.
            given = key is not None and key.spot.place is LocationKind.ENVIRONMENT
            remedy = f"unset {key.spot.source}" if key and given else service.endpoint.key_command
            return service.trouble(text, remedy)
    if probed.timed_out or (raw is not None and raw.status == 429):
        return (unknown if probed.timed_out else warning)(text, context.again("api"))
    if raw is not None and (raw.status == 404 or service.endpoint.chat.free):
        return _without_list(service, context, text)
    if probed.next is None and context.deep:
        text = f"{text}. {LATER}"
    # With --deep, a test request shows more.
    return service.trouble(text, probed.next or context.again("api", "--deep"))


def _without_list(service: ApiService, context: Context, text: str) -> Finding:
    """Some servers have no model list, or fail to send it, but can still generate: leave that to the test request."""
    if context.deep:
        return skipped(f"{text}; {service.label}.request checks whether it generates")
    return warning(f"{text}; --deep checks whether it generates", context.again("api", "--deep"))


def _ask(service: ApiService, context: Context) -> KeyTest:
    """Return the result of probing the service; probes only once."""
    name, url, key = service.endpoint.name, service.endpoint.base_url, service.secret(context)
    return context.once(f"api.{name}.{url}.probe", lambda: probe(name, url, key, _ANSWER_S))


def limits(headers: Mapping[str, str]) -> str:
    """Describe the rate limits in a response's headers. Anything but a number is dropped: headers are untrusted."""
    found = []
    for unit in ("requests", "tokens"):
        told = (headers.get(f"x-ratelimit-{what}-{unit}", "") for what in ("remaining", "limit"))
        left, most = (int(text) if re.fullmatch("[0-9]{1,12}", text) else None for text in told)
        if most is not None:
            found.append(f"{most:,} {unit}" if left is None else f"{left:,} of {most:,} {unit} left")
    return f"limits: {', '.join(found)}" if found else "no rate limits reported"


@when_reachable
def model(service: ApiService, context: Context) -> Finding:
    """Look for the model in the service's model list."""
    listed = _listed(service, context)
    if listed is None:
        return skipped("no model list available")
    names = [name for name in listed[:_MOST] if name == foreign(name)]
    wanted = service.endpoint.model
    if not names:
        return skipped(f"the model list is empty, so cannot check for {wanted}")
    # Gemini's names have a prefix, Ollama's a tag.
    plain = [name.removeprefix("models/") for name in names]
    if not {wanted, wanted.removeprefix("models/"), f"{wanted}:latest"}.isdisjoint(plain):
        return ok(f"{wanted} is listed (models in total: {len(names):,})")
    near = get_close_matches(wanted, plain, n=1, cutoff=0.6)
    guess = f". Did you mean {near[0]}?" if near else ""
    text = f"{service.endpoint.name} does not list the model {wanted}; it lists {several(len(names), 'other')}{guess}"
    remedy = server_command(service.endpoint, FETCH) or (
        service.with_model(context, near[0]) if near else context.models(service.endpoint.name)
    )
    # A service may serve the user's adapters and deployments without listing them.
    return (warning if service.endpoint.chat.serves_own_weights else service.trouble)(text, remedy)


def _listed(service: ApiService, context: Context) -> tuple[str, ...] | None:
    probed = _ask(service, context)
    if probed.result != "valid" or probed.models is not None:
        return probed.models
    # The key check returned no models; this service has a separate list that needs no key.
    endpoint = service.endpoint
    return probe(endpoint.name, endpoint.base_url, service.secret(context), _ANSWER_S, path="/models").models
