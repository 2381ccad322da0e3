"""What an API is asked for a hint, and which hints are used (``offload.teach = "hints"``).

The API sees only the question. To name a method it needs no reference answer, and it cannot give away what it was not
told. It does not see the node's wrong answers either, so a hint depends on the question alone.

A hint with the answer in it is not used: the node would copy the answer, and learn to answer without working it out.
"""

import re
from collections.abc import Sequence

from hivemind_exp.foreign_text import visible
from hivemind_exp.rollouts.types import Message

STAGE = "hint"
"""The stage under which hints are journaled and billed. No game has it."""
MOST_TOKENS = 96
"""Default maximum tokens per hint. They are enough for ``_WORDS`` words of English."""
LONGEST = 400
"""Most characters of a hint that are shown to the node's model."""
GIVES_AWAY = "refused for giving the answer away"
TOO_LONG = "too long for the node's prompts (generation.max_prompt_tokens)"
EMPTY = "empty"
"""Why a hint is not used, as the end of a sentence that begins with "the hint is"."""
_WORDS = 40
_RULES = (
    "A student answered the question below incorrectly. Write a hint that helps the student find the answer: how to "
    f"approach it, or the first step, in at most {_WORDS} words. Never state the answer or a part of it. Reply with "
    "the hint and nothing else."
)
_LABEL = re.compile(r"\W*hint\W*:\W*", re.IGNORECASE)
_WORD = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?|[^\W\d_]+")
_UNITS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
_NUMBERS = {word: number for number, word in enumerate(_UNITS) if word != "one"}  # "one" is mostly a pronoun


def hint_messages(question: str) -> tuple[Message, ...]:
    """Return the chat that asks for a hint."""
    return ({"role": "system", "content": _RULES}, {"role": "user", "content": question})


def clean_hint(text: str) -> str:
    """Return an API's text as one line of at most ``LONGEST`` visible characters, without the label "Hint:"."""
    line = visible(" ".join(_LABEL.sub("", text, count=1).split() if _LABEL.match(text) else text.split()))
    return line if len(line) <= LONGEST else line[:LONGEST].rpartition(" ")[0] or line[:LONGEST]


def with_hint(messages: Sequence[Message], question: str, hint: str) -> tuple[Message, ...]:
    """Return a prompt with a hint after its question, which is in the last message."""
    *others, last = messages
    before, _, after = last["content"].partition(question)
    parts = (before + question, f"Hint: {hint}", after.strip())
    return (*others, {**last, "content": "\n\n".join(filter(None, parts))})


def gives_away(hint: str, reference: str) -> bool:
    """Return whether a hint contains the reference answer: its words in order, also spelled letter by letter.

    Numbers match by value, in digits or in words. If the number means something else in the hint, a useful hint is
    lost. That costs less than teaching the node to copy.
    """
    if len(reference) == 1 and reference.isalpha():  # "a" is mostly an article
        return re.search(rf"\b{reference}\b", hint) is not None
    answer, words = _words(reference), _words(hint)
    if not answer:
        return reference in hint
    return _contains(words, answer) or _contains(_joined(words), _joined(answer))


def _contains(words: Sequence[str], part: Sequence[str]) -> bool:
    return any(words[start : start + len(part)] == part for start in range(len(words) - len(part) + 1))


def _words(text: str) -> list[str]:
    """Return a text's words in lower case. Numbers are in digits, without leading or trailing zeros."""
    found: list[str] = []
    tens: int | None = None
    for word in _WORD.findall(text.lower()):
        if tens is not None and word in _UNITS[1:10]:
            found[-1], tens = str(tens + _UNITS.index(word)), None
            continue
        tens = _TENS.get(word)
        found.append(str(_NUMBERS.get(word, word)) if tens is None else str(tens))
    return [_plain(word) for word in found]


def _plain(word: str) -> str:
    if not word[0].isdigit():
        return word
    whole, _, part = word.replace(",", "").partition(".")
    whole, part = whole.lstrip("0") or "0", part.rstrip("0")
    return f"{whole}.{part}" if part else whole


def _joined(words: Sequence[str]) -> list[str]:
    """Return words in which single letters in a row are one word."""
    found: list[str] = []
    open_ = False
    for word in words:
        single = len(word) == 1 and word.isalpha()
        if single and open_:
            found[-1] += word
        else:
            found.append(word)
        open_ = single
    return found
