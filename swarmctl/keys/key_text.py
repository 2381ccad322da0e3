"""Keys as text: clean, show and recognize them, and check their names and hosts."""

import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from hivemind_exp.errors import KeyProblem
from hivemind_exp.providers import PROVIDERS
from hivemind_exp.proxies import is_private
from swarmctl.errors import UsageError
from swarmctl.terminal.safe_text import looks_like_key
from swarmctl.terminal.suggest import nearest

_LONGEST = 4096
_LONGEST_NAME = 32
_STRIPPED = " \t\r\n\f\v\"'`“”‘’\ufeff\u200b\u00a0"
_ELSEWHERE = {
    "sk-ant-": "anthropic",
    "ghp_": "github",
    "github_pat_": "github",
    "nvapi-": "nvidia",
    "pplx-": "perplexity",
}
"""Key prefixes of services that are not in the provider table."""


_PREFIXED = re.compile(r"(export +)?[A-Z][A-Z0-9_]*(_KEY|_TOKEN)=.|(authorization: *)?bearer ", re.IGNORECASE)
"""A whole line of a .env file, a shell script or a header."""

_PLACEHOLDER = re.compile(
    r"[<\[{].*[>\]}]|\$.*|%\w+%"  # <your-key>, [KEY], {{ key }}, ${KEY}, $KEY, %KEY%
    r"|.*(\.{3}|\*{3}|x{5}|your[-_\w]*(key|token)|(api|secret)[-_]?(key|token)).*"  # sk-..., sk-xxxxx, YOUR_API_KEY
    r"|(change|replace|insert|put|fill)[-_]?(me|this|here|in)\w*"
    r"|((enter|insert|paste|add|put|fill|set|use|replace|with|here|in|my|the|new)[-_ ]?)*(key|token)([-_]?here)?"
    r"|[a-z]{2,4}([-_][a-z0-9]{2,5})*[-_](x{2,})?|x[-x_]*|@\w+@"  # sk-, hf_xxx, XXXX-XXXX, @KEY@
    r"|[^a-z0-9]*|\w+://.*|~/.*|\w+\[.*\]"  # -----, op://vault/openai, ~/key.txt, os.environ[...]
    r"|placeholder|todo|([a-z]+[-_])*(redacted|paste[-_]?here)|tbd|none|null|nil|undefined|unset|false|n/?a|example|sk-example",
    re.IGNORECASE,
)
"""Placeholders for keys in documents and templates."""


def is_name(text: str) -> bool:
    """Whether ``text`` can be a key's name."""
    return len(text) <= _LONGEST_NAME and re.fullmatch("[a-z0-9][a-z0-9-]*", text) is not None


def check_name(name: str) -> str:
    """Return ``name``. Raises UsageError if it is invalid; if it looks like a key, the error does not repeat it."""
    if looks_like_key(name) or "=" in name or len(name) > _LONGEST_NAME:
        raise leaked(next((row.name for row in PROVIDERS.values() if name.startswith(row.name + "=")), None))
    if not is_name(name):
        guess = nearest(name.lower(), PROVIDERS)
        hint = f"; did you mean {guess}?" if guess else ". Use lowercase letters, digits and hyphens"
        raise UsageError(f"invalid key name: {name!r}{hint}", next=f"swarmctl keys set {guess or '--help'}")
    return name


def file_variable(name: str) -> str:
    """Return the variable that names a key's file."""
    return f"SWARMCTL_{name.upper().replace('-', '_')}_API_KEY_FILE"


def names_of_files(variables: Iterable[str]) -> list[str]:
    """Return the names of the keys whose files are named by some of the ``variables``."""
    found = (re.fullmatch("SWARMCTL_([A-Z0-9_]+)_API_KEY_FILE", each) for each in variables)
    names = (each[1].lower().replace("_", "-") for each in found if each)
    return [name for name in names if is_name(name)]


def leaked(name: str | None) -> UsageError:
    """Return the error for a key on the command line."""
    row = PROVIDERS.get(name or "")
    where = f" at {row.key_page}" if row and row.key_page else " where you created it"
    return UsageError(
        "a key given as an argument is leaked: it is in the shell history, and every user of this machine could see it "
        f"in the process list. Nothing was saved. Revoke that key{where}, create a new one and enter it at the prompt.",
        next=f"swarmctl keys set {row.name if row else '--help'}",
    )


def clean_key(text: str, source: str, *, next: str = "swarmctl keys --help") -> str:
    """Return the key in ``text`` without surrounding blanks, newlines and quotes.

    Raises KeyProblem if the rest is not a key. The error names ``source``, suggests the command ``next`` and does not
    repeat the text.
    """
    key = text.strip(_STRIPPED)
    if not key:
        problem = f"no key {source}"
    elif len(key) > _LONGEST:
        problem = f"the key {source} is too long"
    elif _PREFIXED.match(key):
        problem = f"invalid key {source}: enter only the key, without a variable's name or Bearer before it"
    elif not key.isascii() or not key.isprintable() or " " in key:
        # It could not be sent in a header, and the HTTP library would repeat it in its error.
        problem = f"invalid key {source}: it contains spaces, line breaks or characters that no key has"
    elif _PLACEHOLDER.fullmatch(key):
        problem = f"the key {source} is only a placeholder"
    else:
        return key
    raise KeyProblem(problem, next=next)


def read_text(path: Path, what: str, *, next: str) -> str:
    """Return a file's text. Raises KeyProblem, with a message that ``what`` cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise KeyProblem(f"cannot read {what}: {reason}", next=next) from error


def last_four(key: str) -> str | None:
    """Return the part of a key that may be shown; None for a short key, whose last four characters reveal too much."""
    return key[-4:] if len(key) >= 12 else None


def dotted_tail(tail: str | None) -> str:
    """Return the last four characters as shown to users."""
    return f"····{tail}" if tail else "····"


def looks_foreign(key: str, name: str) -> str | None:
    """Return the provider whose key this looks like, unless that is ``name``."""
    known = [*_ELSEWHERE.items(), *((prefix, row.name) for row in PROVIDERS.values() for prefix in row.prefixes)]
    found = max((prefix for prefix, _ in known if key.startswith(prefix)), key=len, default=None)
    owners = [owner for prefix, owner in known if prefix == found]
    if not owners or name in owners:
        return None
    own = PROVIDERS.get(name)
    if found == "sk-" and (own is None or not own.needs_key):
        return None  # self-hosted servers issue such keys, too
    return " or ".join(owners)


def host_of(url: str) -> str:
    """Return a URL's host, with the port unless it is the scheme's default."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    host = f"[{host}]" if ":" in host else host
    own = {"https": 443, "http": 80}.get(parts.scheme)
    return host if parts.port in (None, own) else f"{host}:{parts.port}"


def origin_of(url: str) -> str:
    """Return what a key belongs to: a URL's scheme, host and port. A URL without a scheme counts as https."""
    url = url if "://" in url else f"https://{url}"
    return f"{urlsplit(url).scheme}://{host_of(url)}"


def in_the_clear(url: str) -> bool:
    """Whether a key sent to ``url`` crosses the internet unencrypted."""
    parts = urlsplit(url)
    return parts.scheme != "https" and not is_private(parts.hostname or "")
