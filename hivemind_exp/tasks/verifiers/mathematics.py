"""Verifier that compares answers mathematically, with math-verify, within limits.

Plain numbers are compared here, exactly, and never reach math-verify. math-verify sets alarms, so it works only in a
main thread. Workers have only that one thread.
"""

import re
from fractions import Fraction

from hivemind_exp.tasks.verifiers.lists import nesting
from hivemind_exp.tasks.verifiers.numbers import DIGITS, parse_decimal

LONGEST = 400
"""Maximum length of an expression, in characters."""
DEEPEST = 12
"""Maximum nesting depth of brackets."""
MOST_POWERS = 8
_SECONDS = 1

_TOO_MANY_DIGITS = re.compile(rf"\d{{{DIGITS + 1}}}")
_POWER = re.compile(r"\^|\*\*")
_SMALL_POWER = re.compile(
    r"(?:\^|\*\*)\s?(?:\d|[a-zA-Z]|[{(]\s?-?(?:\d{1,2}|[a-zA-Z]|\d\s?/\s?\d)\s?[)}])(?!\d|\s?\^|\s?\*\*)"
)
_PLAIN = re.compile(r"\$?([+-]?[\d,.]*\d(?:[eE][+-]?\d+)?)\.?\$?(?: [a-zA-Z]{2,20}){0,4}\.?", re.ASCII)
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", re.ASCII)
_REFUSED = ("!", "__", ";", "import", "lambda", "\\sum", "\\prod", "\\int", "\\lim", "\\binom", "\\tbinom", "\\dbinom")


def load() -> None:
    """Import math-verify and warm up its caches before the first answer. This takes 2 s and 60 MiB."""
    from math_verify import parse, verify

    verify(parse("$1/2$"), parse("$\\frac{2}{4}$"))


def harmless(text: str) -> bool:
    """Return whether ``text`` is safe for a computer algebra system: no towers of powers, no deep nesting, not long."""
    if len(text) > LONGEST or any(part in text for part in _REFUSED) or _TOO_MANY_DIGITS.search(text):
        return False
    powers = len(_POWER.findall(text))
    if powers > MOST_POWERS or powers != len(_SMALL_POWER.findall(text)):
        return False
    return nesting(text, "([{", ")]}") <= DEEPEST


def plain_number(text: str) -> Fraction | None:
    """Return the exact value of a decimal number as people write it: ``$1,234.50``, ``18.``, ``12 apples``."""
    found = _PLAIN.fullmatch(text.strip())
    if found is None:
        return None
    bare = found[1]
    if "," in bare and not _THOUSANDS.fullmatch(bare):
        return None
    value = parse_decimal(bare.replace(",", ""))
    return None if value is None else Fraction(value)


def same(answer: str, right: str) -> float:
    """Return 1.0 if the two are mathematically equal, else 0.0."""
    mine, its = plain_number(answer), plain_number(right)
    if mine is not None and its is not None:
        return float(mine == its)
    if not harmless(answer):
        return 0.0
    from math_verify import parse, verify

    wanted = parse(_as_mathematics(right), parsing_timeout=_SECONDS)
    found = parse(_as_mathematics(answer), parsing_timeout=_SECONDS)
    return float(verify(wanted, found, timeout_seconds=_SECONDS))


def _as_mathematics(text: str) -> str:
    return text if "$" in text or "\\boxed" in text else f"${text}$"
