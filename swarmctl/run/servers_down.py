"""Which of the operator's own servers, that a run would ask, accept no connection."""

import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from hivemind_exp.connection_errors import reason_for
from hivemind_exp.offload.settings import Endpoint
from hivemind_exp.proxies import proxy_for

_CONNECT_S = 3.0
_PORTS = {"http": 80, "https": 443}


def servers_down(endpoints: Iterable[Endpoint]) -> dict[str, str]:
    """Return the reason for each base URL that accepts no connection. Only connects: sends nothing.

    Hosted services, which need a key, are left out, and so is what is behind a proxy. Raises ConfigurationError if the
    proxy's settings are invalid.
    """
    found = {}
    for url in dict.fromkeys(each.base_url for each in endpoints if not each.needs_key):
        if proxy_for(url) is None and (reason := _refusal(url)) is not None:
            found[url] = reason
    return found


def _refusal(url: str) -> str | None:
    parts = urlsplit(url)
    try:
        address = (parts.hostname or "", parts.port or _PORTS[parts.scheme])
        socket.create_connection(address, timeout=_CONNECT_S).close()
    except TimeoutError:
        return f"no response within {_CONNECT_S:g} s"
    except OSError as error:
        return reason_for(error) or "cannot connect"
    return None
