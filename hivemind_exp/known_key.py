"""Remove a known API key from what a service said, however the service wrote it."""

import base64
import re
from collections.abc import Iterator
from functools import lru_cache

_SHORT = 12
_CORE = 24
"""Characters of a key that are looked for in base64 and hex. What follows them there is removed, too."""
_BETWEEN = (
    r"(?:(?:\x1b|\\u001b|\\x1b)\[[0-9;?]*[ -/]*[@-~]|[\x00-\x20\x7f-\x9f\xad\u200b-\u200f\u2060\ufeff]"
    r"|\\[nrtbf]|\\u(?:00[01][0-9a-f]|200[b-f]|feff)|\\)*"
)
"""What may stand between two characters: colors, line breaks and invisible characters, also as JSON escapes."""
_ESCAPE = re.compile(
    rb"[\\%&](?:u00([0-9a-f]{2})|x([0-9a-f]{2})|#x([0-9a-f]{2});|#([0-9]{2,3});|(?<=%)([0-9a-f]{2})|u(?:20[06][0b-f]|feff))"
)
_COLOR = re.compile(rb"\x1b\[[0-9;?]*[ -/]*[@-~]")
_PIECE = 12
"""Shortest part of a key that is removed on its own. Services show less of a key that they reject."""
_BLOCK = _PIECE // 2
_MANY = 1000
"""If a text has a block more often, not each place is looked at, which would take minutes: exact pieces are removed."""
_PREFIX = re.compile(r"^(?:[a-z]{2,8}[-_])*(?:[a-z]{0,3}\d{1,2}[-_])?")
"""What all keys of a service begin with, such as "sk-ant-api03-"."""
_UNSEEN = bytes([*range(0x21), *range(0x7F, 0x100)])
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def without_known_key(text: str, key: str | None, instead: str = "(the key)") -> str:
    """Return ``text`` without ``key``: plain, escaped for URLs, JSON or HTML, in base64 or hex, split, in any case.

    Pieces of the key are removed, too: the rest may be in another part of a list, or in another answer.
    """
    if not key:
        return text
    if len(key) < _SHORT:  # it may be an ordinary word, such as "local", so it is only removed as it is
        return text.replace(key, instead)
    text = _pattern(key).sub(instead, text) if _has_traces(text, key) else text
    return _without_pieces(text, key, instead)


def answer_without_key(content: bytes, key: str | None) -> bytes:
    """Return a service's answer without ``key``, as ``text_without_key``."""
    text = content.decode("utf-8", "surrogateescape")
    left = text_without_key(text, key)
    return content if left is text else left.encode("utf-8", "surrogateescape")


def text_without_key(text: str, key: str | None) -> str:
    """Return text of a service's answer without ``key``, as ``without_known_key``.

    A short key stays: an answer that says "local" must remain as it is, and such a key is no secret.
    """
    return without_known_key(text, key) if key and len(key) >= _SHORT else text


def _without_pieces(text: str, key: str, instead: str) -> str:
    secret = _PREFIX.sub("", key, count=1)
    secret = secret if len(secret) >= _PIECE else key
    # A piece contains one of these blocks whole, wherever in the key it begins.
    blocks = [(at, secret[at : at + _BLOCK]) for at in range(0, len(secret) - _BLOCK + 1, _BLOCK)]
    if not any(block in text for _, block in blocks):
        return text
    for at, block in list(blocks):
        if text.count(block) > _MANY:
            blocks.remove((at, block))
            for begin in range(max(0, at - _BLOCK), at + 1):
                piece = secret[begin : begin + _PIECE]
                text = text.replace(piece, instead) if len(piece) == _PIECE and _is_mixed(piece) else text
    kept, end = [], 0
    for first, last in sorted({span for at, block in blocks for span in _pieces(text, secret, at, block)}):
        if last > end:
            kept.append(text[end : max(first, end)])
            end = last
    return instead.join([*kept, text[end:]])


def _pieces(text: str, secret: str, at: int, block: str) -> Iterator[tuple[int, int]]:
    """Yield where ``text`` has a piece of ``secret`` with the ``block`` that begins there ``at``."""
    found = text.find(block)
    while found >= 0:
        before = _alike(secret[:at][::-1], text[max(0, found - at) : found][::-1])
        after = _alike(secret[at:], text[found : found + len(secret) - at])
        first, last = found - before, found + after
        if last - first >= _PIECE and _is_mixed(text[first:last]):
            yield first, last
        found = text.find(block, last)


def _alike(first: str, second: str) -> int:
    """Return how many characters two texts have in common at their beginning."""
    pairs = zip(first, second, strict=False)
    return next((number for number, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _is_mixed(piece: str) -> bool:
    """Whether this is no number and no word, as it may be in a key that someone made up."""
    return len(set(map(_sort, piece))) > 1


def _sort(character: str) -> str:
    if character.isdigit():
        return "digit"
    return "upper" if character.isupper() else "lower" if character.islower() else "other"


def _has_traces(text: str, key: str) -> bool:
    """Whether the pattern may find a key. Much faster than the pattern, which is needed only for a strange service."""
    plain = text.lower().encode("ascii", "ignore")
    if any(mark in plain for mark in (b"\\", b"%", b"&")):
        plain = _ESCAPE.sub(_unescaped, plain)
    plain = _COLOR.sub(b"", plain) if b"\x1b" in plain else plain
    variants = [plain.translate(None, _UNSEEN)]
    if b"\\" in plain:  # one before a letter may belong to it, as in "\n", or not
        variants = [plain.translate(None, _UNSEEN + b"\\") for plain in (plain, _line_breaks(plain))]
    wanted, of_hex = key.lower().encode(), _hex_core(key).encode()
    encoded = [each.lower().encode() for each in _base64_cores(key)]
    return any(
        wanted in each or of_hex in each or any(core in each.translate(_URL_SAFE) for core in encoded)
        for each in variants
    )


def _line_breaks(plain: bytes) -> bytes:
    """Return text without the escapes of line breaks and the like."""
    for letter in b"nrtbf":
        plain = plain.replace(b"\\" + bytes([letter]), b"")
    return plain


def _unescaped(found: re.Match[bytes]) -> bytes:
    json_, x, html_hex, html, url = found.groups()
    number = int(html) if html else int(json_ or x or html_hex or url or b"20", 16)
    return bytes([number]).lower() if number < 0x80 else b""


@lru_cache(maxsize=16)
def _pattern(key: str) -> re.Pattern[str]:
    rest = len(key) - min(len(key), _CORE)
    of_base64 = r"(?:(?:[\r\n]|\\+[rn])*(?:[A-Za-z0-9+/_=-]|%(?:2b|2f|3d)|\\u00(?:2b|2f|3d)|\\/))"
    ways = [_spelt(key)]
    ways += [_spelt(core) + of_base64 + f"{{0,{2 + 4 * (rest + 2) // 3}}}" for core in _base64_cores(key)]
    ways += [_spelt(_hex_core(key)) + f"[0-9a-f]{{0,{2 * rest}}}"]
    # A backslash that was left would spoil the JSON around it.
    return re.compile(rf"\\*(?:{'|'.join(ways)})", re.IGNORECASE)


def _spelt(word: str) -> str:
    return _BETWEEN.join(map(_letter, word))


def _letter(each: str) -> str:
    """Return a pattern for a character, however it is escaped. URLs have other letters for two of base64's."""
    others = {"+": "-", "/": "_"}.get(each, "")
    ways = [re.escape(each), *others]
    ways += [f"%{ord(each):02x}", rf"\\u{ord(each):04x}", rf"\\x{ord(each):02x}"]
    return "(?:" + "|".join([*ways, f"&#x{ord(each):02x};", f"&#{ord(each)};"]) + ")"


@lru_cache(maxsize=16)
def _base64_cores(key: str) -> tuple[str, ...]:
    """Return the part of the key's base64 that depends on nothing beside it, at each of the three alignments."""
    return tuple(_in_base64(key[:_CORE].encode()))


def _in_base64(key: bytes) -> Iterator[str]:
    for shift in range(3):
        begin, end = -(-8 * shift // 6), (8 * (shift + len(key))) // 6
        yield base64.b64encode(b"\0" * shift + key).decode()[begin:end]


def _hex_core(key: str) -> str:
    return key[:_CORE].encode().hex()
