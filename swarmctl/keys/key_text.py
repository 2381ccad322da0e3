"""Keys as text: how they are cleaned, shown and recognised, what they may be called, and whose host they are for."""

import ipaddress
import re
from pathlib import Path
from urllib.parse import urlsplit

from hivemind_exp.errors import KeyProblem
from hivemind_exp.providers import PROVIDERS
from swarmctl.errors import UsageError
from swarmctl.terminal.safe_text import looks_like_key
from swarmctl.terminal.suggest import nearest

_LONGEST = 4096
_STRIPPED = " \t\r\n\f\v\"'`“”‘’\ufeff\u200b\u00a0"
_ELSEWHERE = {
    "sk-ant-": "anthropic",
    "ghp_": "github",
    "github_pat_": "github",
    "nvapi-": "nvidia",
    "pplx-": "perplexity",
}
"""Prefixes of services that are no row of the table."""


def check_name(name: str) -> str:
    """Return ``name``. Raises UsageError where it cannot be one; a key in its place is not repeated."""
    if looks_like_key(name) or "=" in name or len(name) > 32:
        raise leaked(next((row.name for row in PROVIDERS.values() if name.startswith(row.name + "=")), None))
    if not re.fullmatch("[a-z0-9][a-z0-9-]*", name):
        guess = nearest(name.lower(), PROVIDERS)
        hint = f"; did you mean {guess}?" if guess else ": small letters, digits and hyphens"
        raise UsageError(f"{name!r} cannot be the name of a key{hint}", next="swarmctl keys --help")
    return name


def file_variable(name: str) -> str:
    """Return the variable that names the file of a key."""
    return f"SWARMCTL_{name.upper().replace('-', '_')}_API_KEY_FILE"


def leaked(name: str | None) -> UsageError:
    """Return what to say of a key on a command line."""
    row = PROVIDERS.get(name or "")
    where = f" at {row.key_page}" if row and row.key_page else " where it was made"
    return UsageError(
        "a key given as an argument is leaked: it is in the shell's history, and everyone on this machine could see it "
        f"in the list of processes. Nothing was saved. Revoke that key{where}, make a new one, and let set ask for it",
        next=f"swarmctl keys set {row.name if row else '--help'}",
    )


def clean_key(text: str, source: str, *, next: str = "swarmctl keys --help") -> str:
    """Return the key in ``text`` without what surrounds it: blanks, newlines, quotes.

    Raises KeyProblem, which names ``source`` and not the text, where that is no key. ``next``: what to type then.
    """
    key = text.strip(_STRIPPED)
    if not key:
        problem = f"there is no key {source}"
    elif len(key) > _LONGEST:
        problem = f"what is {source} is too long for a key"
    elif not key.isascii() or not key.isprintable() or " " in key:
        # Such a header could not be sent, and the library that tries would repeat it in its error.
        problem = f"what is {source} is no key: it has blanks, several lines or letters that no key has"
    else:
        return key
    raise KeyProblem(problem, next=next)


def read_text(path: Path, what: str, *, next: str) -> str:
    """Return the text of a file. Raises KeyProblem, which says that ``what`` cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise KeyProblem(f"cannot read {what}: {reason}", next=next) from error


def last_four(key: str) -> str | None:
    """Return what may be shown of a key; of a short one, four characters would be too much."""
    return key[-4:] if len(key) >= 12 else None


def dotted_tail(tail: str | None) -> str:
    """Return the last four characters as people see them."""
    return f"····{tail}" if tail else "····"


def looks_foreign(key: str, name: str) -> str | None:
    """Return whose key this looks like, if that is not ``name``."""
    known = [*_ELSEWHERE.items(), *((prefix, row.name) for row in PROVIDERS.values() for prefix in row.prefixes)]
    found = max((prefix for prefix, _ in known if key.startswith(prefix)), key=len, default=None)
    owners = [owner for prefix, owner in known if prefix == found]
    if not owners or name in owners:
        return None
    own = PROVIDERS.get(name)
    if found == "sk-" and (own is None or not own.needs_key):
        return None  # servers of one's own make such keys too
    return " or ".join(owners)


def host_of(url: str) -> str:
    """Return the host of a URL, with its port where that is not the scheme's own."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    host = f"[{host}]" if ":" in host else host
    own = {"https": 443, "http": 80}.get(parts.scheme)
    return host if parts.port in (None, own) else f"{host}:{parts.port}"


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
