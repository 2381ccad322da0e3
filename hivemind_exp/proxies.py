"""Choose the proxy for a request. Runs, ``doctor`` and key tests all use this, so that they agree.

Proxies come from the environment (``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY``, ``NO_PROXY``, in either case) and, on
macOS, from the system's settings.
"""

import ipaddress
import os
import shlex
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from hivemind_exp.errors import ConfigurationError, KeyProblem

_SCHEMES = ("http", "https", "socks5", "socks5h")
_LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and the variable that names it."""

    url: str = field(repr=False)
    """May contain a password."""
    variable: str

    @property
    def is_socks(self) -> bool:
        return self.url.startswith("socks")


def proxy_for(url: str) -> Proxy | None:
    """Return the proxy for requests to ``url``; None if they go directly, as they always do to this machine.

    Raises ConfigurationError if the proxy's address is invalid or has an unknown scheme, or if the package for SOCKS is
    missing.
    """
    parts = urlsplit(url)
    if is_loopback(parts.hostname or "") or _is_excepted(parts):
        return None
    from urllib.request import getproxies  # imported here: it is slow, and light commands need no proxy

    found = getproxies()
    kind = next((kind for kind in (parts.scheme, "all") if found.get(kind)), None)
    if kind is None:
        return None
    names = (f"{kind}_proxy", f"{kind.upper()}_PROXY")
    variable = next((name for name in names if os.environ.get(name)), names[1])
    address = found[kind] if "://" in found[kind] else f"http://{found[kind]}"
    if not has_host(address):
        raise ConfigurationError(f"invalid proxy in ${variable}: it is not a URL with a host", next=f"unset {variable}")
    if (scheme := urlsplit(address).scheme) not in _SCHEMES:
        message = f"invalid proxy in ${variable}: the scheme {scheme!r} is not one of {', '.join(_SCHEMES)}"
        raise ConfigurationError(message, next=f"unset {variable}")
    if scheme.startswith("socks"):
        _check_socks(variable)
    return Proxy(address, variable)


def _check_socks(variable: str) -> None:
    """Raise ConfigurationError if the package that speaks SOCKS is missing."""
    try:
        import socksio  # noqa: F401 - the HTTP library imports it only when it connects
    except ImportError as error:
        raise ConfigurationError(
            f"the proxy in ${variable} is a SOCKS proxy, which needs the package socksio",
            next=f"{shlex.quote(sys.executable)} -m pip install socksio",
        ) from error


def has_host(url: str) -> bool:
    """Whether ``url`` has a valid host and port, so that nothing that parses it fails.

    An address such as ``127.1`` is not valid: some HTTP libraries refuse it.
    """
    try:
        parts = urlsplit(url)
        if (parts.hostname or "").replace(".", "").isdecimal():
            ipaddress.IPv4Address(parts.hostname)
        return bool(parts.hostname) and parts.port != 0 and "\\" not in url
    except ValueError:
        return False


def address_in(environment: Mapping[str, str], variable: str) -> str | None:
    """Return the web address in a variable; None if it is unset or empty. Raises ConfigurationError if it is none."""
    url = environment.get(variable, "").strip().rstrip("/")
    if url and not (url.lower().startswith(("http://", "https://")) and has_host(url)):
        raise ConfigurationError(f"invalid ${variable}: it is not an http:// or https:// URL", next=f"unset {variable}")
    return url or None


def check_key_stays_private(url: str) -> None:
    """Raise KeyProblem if a proxy could read a key that is sent to ``url``. Without TLS, it can read everything."""
    if urlsplit(url).scheme == "http" and (proxy := proxy_for(url)) is not None:
        host = urlsplit(url).hostname or ""
        raise KeyProblem(
            f"the connection to {host} is not encrypted, so the proxy in ${proxy.variable} would read the key; "
            "connect directly",
            next=f"export NO_PROXY={shlex.quote(host)}${{NO_PROXY:+,$NO_PROXY}}",
        )


def with_direct_loopback(environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``environment``, changed so that libraries' own clients use no proxy for this machine, either."""
    others = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    exceptions = ",".join(filter(None, (others, *_LOOPBACK)))
    return {**environment, "no_proxy": exceptions, "NO_PROXY": exceptions}


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine, by name or by address."""
    if host.rstrip(".").endswith(".localhost") or host.rstrip(".") == "localhost":
        return True
    address = _address(host)
    return address is not None and (address.is_loopback or address.is_unspecified)  # 0.0.0.0 connects to this machine


def is_private(host: str) -> bool:
    """Whether ``host`` is this machine or one on a private network, by name or by address."""
    address = _address(host)
    if address is not None:
        return address.is_private
    return "." not in host or host.endswith((".local", ".lan", ".internal", ".localhost"))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that ``host`` is, in any form that the system accepts, such as ``127.1``; None for a name."""
    host = host.strip("[]").rstrip(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            return ipaddress.ip_address(socket.inet_aton(host))
        except (OSError, UnicodeError):
            return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_excepted(parts: SplitResult) -> bool:
    """Whether ``NO_PROXY`` names a host: by name, suffix, ``*``, address, or network such as ``10.0.0.0/8``."""
    from urllib.request import getproxies, proxy_bypass

    host = parts.hostname or ""
    if proxy_bypass(host if parts.port is None or ":" in host else f"{host}:{parts.port}"):
        return True
    address = _address(host)
    for entry in getproxies().get("no", "").split(",") if address is not None else ():
        with suppress(ValueError):
            if address in ipaddress.ip_network(entry.strip().strip("[]"), strict=False):
                return True
    return False
