"""Text that others wrote (services, peers, charters, libraries, the hub), made safe to quote in a message.

Messages contain such text only in this form. Otherwise a line break in it could begin a line that looks like ours, such
as ``try: pip install …``.
"""

import re

LONGEST = 300
"""Longer external text is truncated in messages to this many characters."""
_NAME = re.compile(r"[A-Za-z0-9._~][A-Za-z0-9._~/:@+-]*")
"""What is shown without quotes: a model's name, an address, a path. It is one word, so no sentence can hide in it."""
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters and symbols that look like a space."""


def foreign(text: object, most: int = LONGEST) -> str:
    """Return ``text`` in a form that a message can show: on one line, in double quotes, at most ``most`` characters.

    Line breaks become spaces; other control characters, direction overrides and invisible characters become escapes
    such as ``\\x1b``. A single word that can be a name gets no quotes.
    """
    shown = visible(" ".join(str(text)[: 4 * most].split()))
    shown = shown if len(shown) <= most else shown[: most - 1] + "…"
    if _NAME.fullmatch(shown) and not shown.endswith(":"):
        return shown
    return '"' + shown.replace('"', "'") + '"'


def visible(text: str) -> str:
    """Return ``text`` on one line. Invisible characters become escapes; spaces stay."""
    return "".join(map(_seen, text))


def _seen(character: str) -> str:
    if character.isprintable() and character not in _BLANK:
        return character
    return character.encode("unicode_escape").decode()
