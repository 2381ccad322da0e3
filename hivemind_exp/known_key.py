"""Remove a known API key from what a service said, however the service wrote it."""

import base64
import re
from functools import lru_cache

_SHORT = 12
_BETWEEN = (
    r"(?:(?:\x1b|\\u001b|\\x1b)\[[0-9;?]*[ -/]*[@-~]|[\x00-\x20\x7f-\x9f\xad\u200b-\u200f\u2060\ufeff]"
    r"|\\[nrtbf]|\\u(?:00[01][0-9a-f]|200[b-f]|feff))*"
)
"""What may stand between two characters: colors, line breaks and invisible characters, also as JSON escapes."""


def without_known_key(text: str, key: str | None, instead: str = "(the key)") -> str:
    """Return ``text`` without ``key``: plain, escaped for URLs or JSON, in base64, split, or in other letter case."""
    if not key:
        return text
    # A short key may be an ordinary word, such as "local", so it is only removed as it is.
    return text.replace(key, instead) if len(key) < _SHORT else _pattern(key).sub(instead, text)


@lru_cache(maxsize=16)
def _pattern(key: str) -> re.Pattern[str]:
    spelt = _BETWEEN.join(rf"(?:{re.escape(each)}|%{ord(each):02x}|\\u{ord(each):04x})" for each in key)
    return re.compile("|".join([spelt, *_in_base64(key)]), re.IGNORECASE)


def _in_base64(key: str) -> list[str]:
    """Return the part of the key's base64 that depends on nothing beside it, at each of the three alignments."""
    found = []
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            begin, end = -(-8 * shift // 6), (8 * (shift + len(key))) // 6
            found.append(re.escape(encode(b"\0" * shift + key.encode()).decode()[begin:end]) + "[A-Za-z0-9+/_=-]?=*")
    return found
