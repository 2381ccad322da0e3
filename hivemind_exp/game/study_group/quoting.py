"""Text that nobody vouches for, as part of a prompt: recognisable as a quotation from the first letter to the last.

Every line stands behind a bar, so there is no mark that the text could close. Whatever could be a token of a chat
format (``<|im_end|>``, ``</s>``, ``[INST]``) or one of the game's tags is broken by a space, which people and models
read over; control characters are gone.
"""

import re
import unicodedata

LONGEST_QUOTATION = 1200
"""Characters that are kept of a text which is shown."""
BAR = "| "
_GAP = " […] "
_BREAKS = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_OPENING = re.compile(r"[<＜﹤]|[\[［](?=/?[A-Z_])")
_SILENT = ("Cc", "Cf", "Cs", "Co")
"""Categories of characters that are not seen, or that no encoding has."""


def quoted(text: str, most: int) -> str:
    """Return ``text`` as a quotation of at most ``most`` characters; of a longer one beginning and end."""
    lines = _BREAKS.split(shortened(text.strip(), most))
    return "\n".join((BAR + _harmless(line)).rstrip() for line in lines)


def shortened(text: str, most: int) -> str:
    """Return ``text``, of a longer one than ``most`` characters beginning and end."""
    if len(text) <= most:
        return text
    # The answer stands at the end, so most of what is kept is that.
    tail = 2 * max(0, most - len(_GAP)) // 3
    head = max(0, most - len(_GAP)) - tail
    return f"{text[:head]}{_GAP}{text[len(text) - tail :]}"


def _harmless(line: str) -> str:
    seen = "".join(" " if unicodedata.category(character) in _SILENT else character for character in line)
    return _OPENING.sub(r"\g<0> ", seen)
