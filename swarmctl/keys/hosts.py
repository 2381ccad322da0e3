"""To which host a key belongs."""

import ipaddress
from urllib.parse import urlsplit

from hivemind_exp.errors import KeyProblem
from hivemind_exp.providers import PROVIDERS
from swarmctl.errors import UsageError
from swarmctl.terminal.suggest import nearest


def host_of(url: str) -> str:
    """Return the host of a URL, with its port where that is not the scheme's own."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    host = f"[{host}]" if ":" in host else host
    own = {"https": 443, "http": 80}.get(parts.scheme)
    return host if parts.port in (None, own) else f"{host}:{parts.port}"


def checked_url(url: str) -> str:
    """Return a base URL without a slash at its end. Raises UsageError where it is none."""
    text = url.strip().rstrip("/")
    text = text if "://" in text else f"https://{text}"
    try:
        parts = urlsplit(text)
        fine = parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment)
        _ = parts.port
    except ValueError:
        fine = False
    if not fine:
        raise UsageError("--host takes an address such as https://llm.example/v1", next="swarmctl keys set --help")
    if parts.username or parts.password:
        raise UsageError("--host takes no user name and no password", next="swarmctl keys set --help")
    return text


def in_the_clear(url: str) -> bool:
    """Whether a key sent to ``url`` could be read on its way through the internet."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" or host == "localhost" or ("." not in host.strip("[]") and ":" not in host):
        return False
    if host.endswith((".local", ".lan", ".internal", ".localhost")):
        return False
    try:
        return not ipaddress.ip_address(host).is_private
    except ValueError:
        return True


def base_url_of(name: str, given: str | None, saved: str | None) -> str:
    """Return the base URL of a key: of the provider's row, else as given, else as saved before.

    Raises KeyProblem where the row says otherwise, or nothing does.
    """
    row = PROVIDERS.get(name)
    if row is not None:
        if given is not None and checked_url(given) != row.base_url:
            raise KeyProblem(
                f"{name} is always at {row.base_url}: its key is sent nowhere else. Another host needs another name",
                next=f"swarmctl keys set my{name} --host {checked_url(given)}",
            )
        return row.base_url
    if given is not None:
        return checked_url(given)
    if saved is not None:
        return saved
    guess = nearest(name, PROVIDERS)
    hint = f"did you mean {guess}? A" if guess else "a"
    raise KeyProblem(
        f"{name} is no provider that swarmctl knows: {hint} name of your own needs --host URL",
        next=f"swarmctl keys set {guess or '--help'}",
    )
