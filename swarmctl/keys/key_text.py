"""Keys as text: how they are cleaned, shown and recognised, and what they may be called."""

import re

from hivemind_exp.errors import KeyProblem
from hivemind_exp.providers import PROVIDERS
from swarmctl.errors import UsageError
from swarmctl.terminal.safe_text import looks_like_key
from swarmctl.terminal.suggest import nearest

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
LONGEST = 4096
SHOWN_FROM = 12
"""Of a shorter key, four characters would be too much to show."""
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
    if not NAME.fullmatch(name):
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
        raise KeyProblem(f"there is no key {source}", next=next)
    if len(key) > LONGEST:
        raise KeyProblem(f"what is {source} is too long for a key", next=next)
    if not key.isascii() or not key.isprintable() or " " in key:
        # Such a header could not be sent, and the library that tries would repeat it in its error.
        raise KeyProblem(
            f"what is {source} is no key: it has blanks, several lines or letters that no key has",
            next=next,
        )
    return key


def last_four(key: str) -> str | None:
    """Return what may be shown of a key."""
    return key[-4:] if len(key) >= SHOWN_FROM else None


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
