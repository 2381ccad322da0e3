"""Check whether the Hugging Face hub is reachable, because its libraries would retry for half a minute."""

import os
import socket
from urllib.parse import urlsplit

from hivemind_exp.proxies import address_in, proxy_for

CONNECT_SECONDS = 5.0
"""How long to wait for a connection to the hub before using only cached files."""
_ENDPOINT = "https://huggingface.co"


def is_offline() -> bool:
    """Return whether the operator turned the hub off (``HF_HUB_OFFLINE``)."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def hub_answers() -> bool:
    """Return whether the hub accepts connections. Behind a proxy a connection proves nothing, so return True.

    Raises ConfigurationError if ``HF_ENDPOINT`` or the proxy is invalid.
    """
    if is_offline():
        return False
    endpoint = address_in(os.environ, "HF_ENDPOINT") or _ENDPOINT
    if proxy_for(endpoint) is not None:
        return True
    address = urlsplit(endpoint)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
