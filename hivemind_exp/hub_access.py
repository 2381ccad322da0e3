"""Whether the Hugging Face hub answers, found out before its libraries ask it for half a minute."""

import os
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

CONNECT_SECONDS = 5.0
"""How long the hub may take to open a connection before what is cached is used without asking."""
_ENDPOINT = "https://huggingface.co"


def is_offline() -> bool:
    """Say whether the hub was switched off on purpose."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def hub_answers() -> bool:
    """Say whether the hub's port opens. Behind a proxy that would prove nothing, so there the answer is yes."""
    if is_offline():
        return False
    if getproxies():
        return True
    address = urlsplit(os.environ.get("HF_ENDPOINT") or _ENDPOINT)
    port = address.port or (80 if address.scheme == "http" else 443)
    try:
        socket.create_connection((address.hostname or "", port), timeout=CONNECT_SECONDS).close()
    except OSError:
        return False
    return True
