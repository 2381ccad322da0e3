r"""Numbers with or without a unit: ``$1,234.50``, ``12 apples``, ``3 pm``, ``\frac{1}{2}``, ``10!``.

They are compared exactly. A unit may be missing on one side, but a word that changes the value may not.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from math import comb, factorial
from typing import NamedTuple

from hivemind_exp.tasks.verifiers.numbers import DIGITS, parse_decimal

_SCALES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_SPELLINGS = {
    "c": "celsius",
    "celsiu": "celsius",
    "f": "fahrenheit",
    "m": "meter",
    "metre": "meter",
    "cm": "centimeter",
    "centimetre": "centimeter",
    "mm": "millimeter",
    "millimetre": "millimeter",
    "km": "kilometer",
    "kilometre": "kilometer",
    "ft": "foot",
    "feet": "foot",
    "in": "inch",
    "inche": "inch",
    "yd": "yard",
    "mi": "mile",
    "µg": "microgram",
    "ug": "microgram",
    "mcg": "microgram",
    "µm": "micrometer",
    "micrometre": "micrometer",
    "'": "foot",
    "′": "foot",
    '"': "inch",
    "″": "inch",
    "g": "gram",
    "kg": "kilogram",
    "mg": "milligram",
    "lb": "pound",
    "oz": "ounce",
    "l": "liter",
    "litre": "liter",
    "ml": "milliliter",
    "s": "second",
    "sec": "second",
    "min": "minute",
    "h": "hour",
    "hr": "hour",
}
"""Abbreviations and other spellings of units, in lower case and without a plural s."""
_BINDING = re.compile(
    r"""
    am|pm|a\.m\.|p\.m\.|percent|per|cent|squared?|cubed?|root|over|under|above|below|and|or|is|are|was|not?|than|more|less
    |least|most|minus|plus|negative|by|of|to|mod|factorial|half|halves|third|quarter|fourth|fifth|sixth|eighth|tenth
    |hundredth|thousandth|pair|score|gross|quadrillion|quintillion|if|when|where|for|only|except|otherwise|wrong|incorrect
    |sqrt|sin|cos|tan|log|ln|exp|choose|few|fewer|debt|[‰‱?…]+
    """,
    re.VERBOSE,
)
"""Words after a number that change its value or its meaning."""
_CASE_COUNTS = re.compile(r"m[A-Z][a-zA-Z]?|[A-Z]b")
"""Units that another case makes another unit: mW (not MW), Mb (not MB)."""
_TEXT = re.compile(r"\\(?:text|mathrm|mbox|textrm|operatorname)\s?\{([^{}\\$]*)\}")
_UNIT = re.compile(
    r"(?P<value>.*[\d)}.])(?P<unit>\s?(?:\\?%(?:\s[a-zA-Z.]{2,20}){0,5}|['′\"″‰‱]|(?:°|\^\s?\{?\s?\\circ\s?\}?)\s?[CF]?)"
    r"|\s?_\s?\{?\d{1,2}\}?|(?:\s[a-zA-Zµ.]{2,20}(?:\s?\^\{?[23]\}?)?(?:\s[a-zA-Z.]{1,20}){0,5}))",
    re.DOTALL,
)
_LETTER = re.compile(r"(.*\d)\s([a-zA-Z](?:\s?\^\{?[23]\}?)?)", re.DOTALL)
_UPRIGHT_LETTER = re.compile(r"(.*\d\}?)\s?\\(?:text|mathrm)\s?\{\s?([a-zA-Z])\s?\}", re.DOTALL)
_NUMBER = r"[+-]?(?:\d[\d,]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,2})?"
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d*)?", re.ASCII)
_SMALL = r"\{?\s?(\d{1,4})\s?\}?"


class Quantity(NamedTuple):
    """A text split at its unit."""

    value: str
    """The text before the unit."""
    unit: str
    """Lower case, singular; empty if there is none."""
    scale: int = 1
    """The factor that the words before the unit stand for: 1 000 000 for ``5 million``."""

    @property
    def percent(self) -> bool:
        """Whether the unit is %, with or without words after it (``5% increase``)."""
        return self.unit.startswith("%")

    def fits(self, other: "Quantity") -> bool:
        """Return whether the units are equal, or one is missing and the other does not change the value."""
        mine, its = self.unit, other.unit
        if self.percent and other.percent:
            mine, its = mine[1:].strip(), its[1:].strip()
        if mine and its:
            return mine == its
        return not any(map(_BINDING.fullmatch, (mine or its).split()))


def split_unit(text: str) -> Quantity:
    """Split ``text`` into a value and its unit."""
    letter = _UPRIGHT_LETTER.fullmatch(text)
    if letter is not None:
        return Quantity(letter[1].strip(), " ".join(_words(letter[2])))
    found = _UNIT.fullmatch(" ".join(_TEXT.sub(r" \1 ", text).split()))
    if found is None:
        return Quantity(text, "")
    words = _words(found["unit"])
    scale = 1
    while words and words[0] in _SCALES:
        scale *= _SCALES[words.pop(0)]
    return Quantity(found["value"].strip(), " ".join(words), scale)


def split_units(text: str, other: str) -> tuple[Quantity, Quantity]:
    """Split two texts into values and units. A single letter, as in ``5 m``, is a unit if the other text has one."""
    one, two = split_unit(text), split_unit(other)
    return (_lettered(one) if two.unit else one), (_lettered(two) if one.unit else two)


def _lettered(quantity: Quantity) -> Quantity:
    found = None if quantity.unit else _LETTER.fullmatch(quantity.value.strip())
    return quantity if found is None else Quantity(found[1], " ".join(_words(found[2])), quantity.scale)


def _words(unit: str) -> list[str]:
    unit = unit.strip()
    if "%" in unit:
        return ["%", *_words(unit.partition("%")[2])]
    if "°" in unit or "circ" in unit:
        return ["degree", *(_SPELLINGS[scale.lower()] for scale in unit.replace("circ", "") if scale in "CF")]
    if unit.startswith("_"):
        return ["base", unit.strip("_{} ")]
    return [word.lower() if _BINDING.fullmatch(word.lower()) else _singular(word) for word in unit.split()]


def _singular(word: str) -> str:
    word = word.rstrip(".")
    name, power, exponent = word.partition("^")
    if name.lower() not in _SPELLINGS and _CASE_COUNTS.fullmatch(name):
        return word
    name = name.lower()
    name = name if len(name) == 1 else name.removesuffix("s")
    return _SPELLINGS.get(name, name) + power + exponent.strip("{}")


def exact_number(text: str) -> Fraction | None:
    """Return the exact value of a number, fraction, mixed number, repeating decimal, power, factorial or binomial."""
    text = text.strip()
    if text.startswith("$") and text.endswith("$") and len(text) > 1:
        text = text[1:-1].strip()
    text = text.removeprefix("$").strip()
    for pattern, value in _FORMS:
        found = pattern.fullmatch(text)
        if found:
            return value(*found.groups(""))
    return None


def _decimal(text: str) -> Fraction | None:
    if "," in text and not _THOUSANDS.fullmatch(text):
        return None
    value = parse_decimal(text.replace(",", ""))
    return None if value is None else Fraction(value)


def _ratio(sign: str, whole: str, top: str, bottom: str) -> Fraction | None:
    if not int(bottom):
        return None
    value = int(whole or 0) + Fraction(int(top), int(bottom))
    return -value if sign == "-" else value


def _repeating(sign: str, whole: str, fixed: str, repeated: str) -> Fraction:
    shift = 10 ** len(fixed)
    value = Fraction(int(f"{whole or 0}{fixed}"), shift) + Fraction(int(repeated), shift * (10 ** len(repeated) - 1))
    return -value if sign == "-" else value


def _scientific(number: str, power: str) -> Fraction | None:
    value = _decimal(number)
    return None if value is None else value * Fraction(10) ** int(power)


def _power(base: str, sign: str, exponent: str) -> Fraction | None:
    if int(base) == 0:
        return None
    return Fraction(int(base)) ** int(sign + exponent)


def _form(
    pattern: str, value: Callable[..., Fraction | None]
) -> tuple[re.Pattern[str], Callable[..., Fraction | None]]:
    return re.compile(pattern, re.ASCII), value


_LONG = rf"\d{{1,{DIGITS}}}"
_FORMS = (
    _form(rf"({_NUMBER})\.?", _decimal),
    _form(rf"([+-]?)(?:(\d{{1,9}})\s)?\s?({_LONG})\s?/\s?({_LONG})", _ratio),
    _form(rf"([+-]?)\s?(?:({_LONG})\s?)?\\[dt]?frac\s?\{{\s?({_LONG})\s?\}}\s?\{{\s?({_LONG})\s?\}}", _ratio),
    _form(r"([+-]?)()\\[dt]?frac\s?(\d)\s?(\d)", _ratio),
    _form(rf"([+-]?)(\d{{0,{DIGITS}}})\.(\d{{0,{DIGITS}}})\\overline\s?\{{(\d{{1,20}})\}}", _repeating),
    _form(rf"({_NUMBER})\s?(?:\\times|\\cdot|\*)\s?10\s?\^\s?\{{?\s?(-?\d{{1,3}})\s?\}}?", _scientific),
    _form(r"(\d{1,4})\s?(?:\^|\*\*)\s?\{?\s?(-?)\s?(\d{1,4})\s?\}?", _power),
    _form(r"(\d{1,3})!", lambda n: Fraction(factorial(int(n)))),
    _form(rf"\\[dt]?binom\s?{_SMALL}\s?{_SMALL}", lambda n, k: Fraction(comb(int(n), int(k)))),
)
"""The largest result is a binomial of four-digit numbers: 3 000 digits, in 0.1 ms."""
