"""The way to a provider: name, connection, encryption. Nothing is sent."""

import shlex
import shutil
import socket
import ssl
import time
import urllib.request

from hivemind_exp.errors import ProviderError
from swarmctl.doctor.check import Context, Finding, ok, skipped, warning
from swarmctl.doctor.checks.api.chain import ApiService
from swarmctl.keys.hosts import in_the_clear

_SECONDS = 3.0
"""For the connection, and once more for the encryption."""
_DAY = 86400


def host(service: ApiService, context: Context) -> Finding:
    """Look up the host's name, connect to it and agree on an encryption."""
    if context.offline:
        return skipped("not looked for, offline")
    if (variable := _proxy(service)) is not None:
        return skipped(f"{service.url.hostname} is asked through the proxy of ${variable}")
    try:
        text = reach(service, context)
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


def reach(service: ApiService, context: Context) -> str:
    """Connect to a provider's host, unless through a proxy, and say how that went. Looks once.

    Raises ProviderError, with a command that cures it or shows more.
    """

    def look() -> str:
        url = service.url
        secure = url.scheme == "https"
        try:
            return _connected(url.hostname or "", url.port or (443 if secure else 80), secure=secure)
        except OSError as error:
            text, following = _explained(service, context, error)
            raise ProviderError(text, next=following) from error

    return "" if _proxy(service) else context.facts.get(f"api.{service.endpoint.name}.way", look)


def _explained(service: ApiService, context: Context, error: OSError) -> tuple[str, str | None]:
    """Return what went wrong, and a command that cures it or shows more."""
    name, where = service.url.hostname or "", service.endpoint.host
    match error:
        case socket.gaierror():
            return f"the name {name} cannot be resolved: {_reason(error)}", _look_up(name)
        case ssl.SSLCertVerificationError():
            return f"the certificate of {name} is not trusted: {error.verify_message}", _certificate(service)
        case ssl.SSLError():
            said = (error.reason or str(error)).lower().replace("_", " ")
            return f"{where} does not speak TLS as it should ({said})", _certificate(service)
        case ConnectionRefusedError() if service.endpoint.chat.free:
            return f"nothing listens at {where}: is {service.endpoint.name} running?", service.start
    reason = f"no answer within {_SECONDS:g} s" if isinstance(error, TimeoutError) else _reason(error)
    return f"{where} cannot be reached: {reason}", service.start or context.again("api")


def _connected(name: str, port: int, *, secure: bool) -> str:
    """Connect, and say how that went. Raises OSError."""
    began = time.monotonic()
    addresses = {entry[4][0] for entry in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)}
    with socket.create_connection((name, port), timeout=_SECONDS) as plain:
        several = "" if len(addresses) == 1 else f" ({len(addresses)} addresses)"
        told = f"{name}{several} takes connections, {1000 * (time.monotonic() - began):.0f} ms"
        if not secure:
            return told
        with ssl.create_default_context().wrap_socket(plain, server_hostname=name) as encrypted:
            until = ssl.cert_time_to_seconds(str((encrypted.getpeercert() or {})["notAfter"]))
            days = int((until - time.time()) / _DAY)
            return f"{told}; {encrypted.version()}, its certificate is good for {days} days"


def _reason(error: OSError) -> str:
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def _look_up(name: str) -> str:
    return f"{'getent hosts' if shutil.which('getent') else 'nslookup'} {shlex.quote(name)}"


def _certificate(service: ApiService) -> str:
    """Return the command that shows what the host presents."""
    name, port = service.url.hostname or "", service.url.port or 443
    return f"openssl s_client -connect {shlex.quote(f'{name}:{port}')} -servername {shlex.quote(name)} < /dev/null"
