"""Make text safe to print: on streams that are not UTF-8, on terminals, and where it may contain secrets.

Messages quote external text with ``hivemind_exp.foreign_text.foreign``. The functions here protect the output even if a
message does not.
"""

import re
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

from hivemind_exp.providers import PROVIDERS

_ASCII = str.maketrans({"→": "->", "…": "...", "·": "-", "–": "-", "’": "'", "×": "x", "λ": "lambda"})
_CONTROLS = re.compile(
    r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)?"  # colors, cursor moves, titles
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)
_PREFIXES = sorted({re.escape(prefix.rstrip("-_")) for row in PROVIDERS.values() for prefix in row.prefixes})
_KEY_LIKE = re.compile(
    rf"({'|'.join(_PREFIXES)}|sk|pk|rk|pplx|nvapi|r8|glpat|gh[pousr]|github_pat|xox[abprs]|wandb)[-_][A-Za-z0-9_\-]{{12,}}"
    r"|AIza[A-Za-z0-9_\-]{20,}|\b(AKIA|ASIA)[A-Z0-9]{16}\b|eyJ[A-Za-z0-9_\-]{20,}|\b[A-Za-z0-9+=]{40,}|://[^/@\s]+:[^/@\s]+@"
)
_NO_BREAK = "\u00a0"
_SLASH = "\x01"
"""A slash behind which a line may end. ``one_line`` removes this character from any text."""
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:%|s|min|h|M|B|[MG]iB)(?:\W|$))")
_OURS = re.compile(r"^(\s*)((?:error|warning|try):)")
"""The beginnings of lines that only swarmctl writes."""
_HEX = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""A commit, a digest or a key (Weights & Biases and Together issue such keys). The text before it decides which."""
_BEFORE_HASH = re.compile(
    r"(\b(revision|commit|swarm1?|digest|sha-?256|snapshots|blobs|tree|resolve)[\s:/='\"]{1,3}|@)$", re.IGNORECASE
)
_PEER = re.compile(r"(?<![A-Za-z0-9])12D3KooW[1-9A-HJ-NP-Za-km-z]{44}(?![A-Za-z0-9])")
_INVITATION = re.compile(r"swarm1:[0-9a-f]{64}")
_WHOLE_INVITATION = re.compile(_INVITATION.pattern + r"[^\s'\"]*")
HIDDEN = "(hidden: looks like a key)"
HEAD, TAIL = 500, 300
"""How many characters of a long text are shown: of its beginning, and of its end, which has the answer."""
HEAD_LINES, TAIL_LINES = 8, 5
_NARROWEST = 16


def clean(text: str) -> str:
    """Remove what could control a terminal: control characters and direction overrides, except newlines and tabs."""
    return _CONTROLS.sub("", text)


def one_line(text: str) -> str:
    """Return ``text`` like ``clean``, on one line. Our messages have no line breaks; external text may have some."""
    return clean(text).replace("\n", " ")


def folded(text: str, width: int, *, indent: str = "", begin: str = "", paths: bool = False) -> list[str]:
    """Return the lines of a message, wrapped between words at ``width`` columns. Numbers stay with their units.

    ``begin`` starts the first line, ``indent`` the others. ``paths``: a path that is longer than a line is wrapped
    behind slashes. If a word such as ``try:`` would begin a line, it is marked,
    because it may be external text and must not look like ours.
    """
    import textwrap  # most commands do not wrap

    text = _BEFORE_UNIT.sub(_NO_BREAK, one_line(text))
    if paths:
        room = width - max(len(begin), len(indent))
        text = re.sub(r"\S+", lambda word: _at_slashes(word[0], room), text)
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=begin,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    lines = [line.replace(f"{_SLASH} ", "/").replace(_SLASH, "/").replace(_NO_BREAK, " ") for line in lines]
    return lines[:1] + [_OURS.sub(r"\1|\2", line) for line in lines[1:]]


def _at_slashes(word: str, room: int) -> str:
    """Return a word, divided by spaces behind some of its slashes (written as ``_SLASH``) if it is longer than a line.

    Each part is as long as a line allows.
    """
    if len(word) <= room:
        return word
    parts = [""]
    for piece in re.findall(r"[^/]*/|[^/]+", word):
        if parts[-1].endswith("/") and len(parts[-1]) + len(piece) > room:
            parts.append("")
        parts[-1] += piece
    return "".join(f"{part[:-1]}{_SLASH} " for part in parts[:-1]) + parts[-1]


def encodable(text: str, encoding: str | None) -> str:
    """Return ``text``, converted to ASCII if ``encoding`` cannot represent it."""
    encoding = encoding or "ascii"
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return text.translate(_ASCII).encode("ascii", "replace").decode("ascii")
    return text


def looks_like_key(text: str) -> bool:
    """Whether ``text`` may contain a secret. Peer ids, invitations and commits do not count."""
    rest = _INVITATION.sub(" ", _PEER.sub(" ", text))
    return any(_unless_public(found) == HIDDEN for found in _KEY_LIKE.finditer(rest))


def hide_keys(text: str) -> str:
    """Replace every word in ``text`` that contains something like a key."""
    return " ".join(HIDDEN if looks_like_key(word) else word for word in text.split(" "))


def masked(text: str) -> str:
    """Return ``text`` with its keys and invitations hidden, so that it can be published.

    Peer ids stay, and so does what the text calls a commit or a digest.
    """
    return _KEY_LIKE.sub(_unless_public, _WHOLE_INVITATION.sub("(hidden: an invitation)", text))


def _unless_public(found: re.Match[str]) -> str:
    value = found[0].rpartition("=")[2]
    return found[0] if is_hash(found.string, found.end() - len(value), value) or _PEER.fullmatch(value) else HIDDEN


def is_hash(text: str, start: int, value: str) -> bool:
    """Whether ``text`` calls ``value``, found at ``start``, a commit or a digest."""
    return bool(_HEX.fullmatch(value) and _BEFORE_HASH.search(text, max(0, start - 16), start))


def without_keys(value: Any) -> Any:
    """Return a copy of a JSON-like ``value`` with every string that looks like a key replaced."""
    if isinstance(value, str):
        return HIDDEN if looks_like_key(value) else value
    if isinstance(value, dict):
        return {key: item if is_revision(key, item) else without_keys(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_keys(item) for item in value]
    return value


def is_revision(key: str, value: object) -> bool:
    """Whether a setting is a commit."""
    return key.endswith("revision") and isinstance(value, str) and _HEX.fullmatch(value) is not None


def quoted(text: str, mark: str, *, width: int | None, full: bool) -> Iterator[str]:
    """Yield the lines of a model's text, each after ``mark``, so that untrusted text cannot pass for other output.

    ``width``: column at which lines are wrapped; None does not wrap. Without ``full``, the middle of a long text is
    omitted, and a line without the mark says so.
    """
    text = clean(text).expandtabs(4)
    room = None if width is None else max(_NARROWEST, width - len(mark) - 1)
    head, left_out, tail = (text, 0, "") if full else _cut(text)
    yield from _marked(head, mark, room)
    if left_out:
        yield f"{' ' * len(mark)}… {left_out:,} characters omitted; use --full to show them"
        yield from _marked(tail, mark, room)


class QuotedStream:
    """Writes a model's text as it comes, after the same mark on every line as ``quoted``."""

    def __init__(self, write: Callable[[str], object], mark: str, width: int) -> None:
        self._write, self._mark, self._room = write, mark, max(_NARROWEST, width - len(mark) - 1)
        self._column: int | None = None

    def __call__(self, piece: str) -> None:
        """Write a piece of the text. A word that does not fit into the line goes to the next."""
        for part in re.split(r"(\s)", clean(piece).expandtabs(4)):
            if part == "\n":
                self._write(self._mark + "\n" if self._column is None else "\n")
                self._column = None
            elif part:
                self._put(part)

    def end(self) -> None:
        """End the last line."""
        if self._column is not None:
            self._write("\n")
            self._column = None

    def _put(self, word: str) -> None:
        if self._column and self._column + sum(map(_columns, word)) > self._room:
            self.end()
            word = word.lstrip(" ")
        for character in word:
            columns = _columns(character)
            if self._column is not None and self._column + columns > self._room:
                self.end()
            if self._column is None:
                self._write(self._mark)
                self._column = 0
            self._write(character)
            self._column += columns


def _cut(text: str) -> tuple[str, int, str]:
    """Return the beginning of a long text, how many characters are omitted, and its end. A short text stays whole."""
    if len(text) <= HEAD + TAIL and text.count("\n") < HEAD_LINES + TAIL_LINES:
        return text, 0, ""
    head = "\n".join(text[:HEAD].split("\n")[:HEAD_LINES])
    tail = "\n".join(text[-TAIL:].split("\n")[-TAIL_LINES:])
    return head, len(text) - len(head) - len(tail), tail


def _marked(text: str, mark: str, room: int | None) -> Iterator[str]:
    for line in text.split("\n"):
        for part in [line] if room is None else _folded(line, room):
            yield f"{mark}{part}".rstrip()


def _folded(line: str, room: int) -> Iterator[str]:
    """Wrap a line at ``room`` columns.

    A row ends at a space in its second half; without one, it ends after any character. A terminal would wrap it too,
    but without the mark. Does not use ``rich.cells``, which counts joined emoji as one. Many terminals do not, and
    would wrap the line.
    """
    begin = end = 0
    used = [0]  # the columns before each character, from ``begin``
    for index, character in enumerate(line):
        columns = _columns(character)
        if used[-1] + columns > room:
            space = line.rfind(" ", begin, index + 1)
            end = space if space > begin and 2 * used[space - begin] >= room else index
            yield line[begin:end]
            begin = end + (end == space)
            used = list(accumulate(map(_columns, line[begin:index]), initial=0))
        used.append(used[-1] + columns)
    yield line[begin:]


def _columns(character: str) -> int:
    """Return how many columns of a terminal a character takes."""
    from unicodedata import category, east_asian_width  # most commands do not need it

    if category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if east_asian_width(character) in ("W", "F") else 1
