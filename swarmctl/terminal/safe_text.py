"""Text made safe to print: for streams that are not UTF-8, for terminals, for values that may be secrets."""

import re
from typing import Any

_ASCII = str.maketrans({"→": "->", "…": "...", "·": "-", "–": "-", "’": "'", "×": "x", "λ": "lambda"})
_CONTROLS = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)?"  # colours, cursor moves, titles
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)
_KEY_LIKE = re.compile(
    r"(sk|pk|rk|hf|gsk|xai|pplx|nvapi|r8|glpat|ghp|github_pat|tgp|fw|csk)[-_][A-Za-z0-9_\-]{12,}"
    r"|AIza[A-Za-z0-9_\-]{20,}|eyJ[A-Za-z0-9_\-]{20,}|\b[A-Za-z0-9+=]{40,}|://[^/@\s]+:[^/@\s]+@"
)
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_PEER = re.compile(r"(?<![A-Za-z0-9])12D3KooW[1-9A-HJ-NP-Za-km-z]{44}(?![A-Za-z0-9])")
_INVITATION = re.compile(r"swarm1:[0-9a-f]{64}")
_WHOLE_INVITATION = re.compile(_INVITATION.pattern + r"[^\s'\"]*")
HIDDEN = "(hidden: looks like a key)"


def clean(text: str) -> str:
    """Remove what could steer a terminal: control characters and direction overrides, newlines excepted."""
    return _CONTROLS.sub("", text)


def encodable(text: str, encoding: str | None) -> str:
    """Return ``text`` with what ``encoding`` lacks written otherwise."""
    encoding = encoding or "ascii"
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return text.translate(_ASCII).encode("ascii", "replace").decode("ascii")
    return text


def looks_like_key(text: str) -> bool:
    """Whether ``text`` may be a secret. Commit hashes, peer ids and invitations are not."""
    rest = _INVITATION.sub(" ", _PEER.sub(" ", text))
    return _KEY_LIKE.search(rest) is not None and _COMMIT.fullmatch(text) is None


def hide_keys(text: str) -> str:
    """Replace every word in ``text`` that looks like a key, with what stands around it."""
    return " ".join(HIDDEN if looks_like_key(word) else word for word in text.split(" "))


def masked(text: str) -> str:
    """Return ``text``, made to be shown to strangers, with keys and invitations in it hidden, and the rest as it is.

    Commit hashes and peer ids stay.
    """
    return _KEY_LIKE.sub(_unless_public, _WHOLE_INVITATION.sub("(hidden: an invitation)", text))


def _unless_public(found: re.Match[str]) -> str:
    value = found[0].rpartition("=")[2]
    return found[0] if _COMMIT.fullmatch(value) or _PEER.fullmatch(value) else HIDDEN


def without_keys(value: Any) -> Any:
    """Return a copy of a JSON-like ``value`` in which every text that looks like a key is replaced."""
    if isinstance(value, str):
        return HIDDEN if looks_like_key(value) else value
    if isinstance(value, dict):
        return {key: without_keys(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_keys(item) for item in value]
    return value
