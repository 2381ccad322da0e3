"""Verifiers that compare answers as numbers or dates, parsed within limits.

``9**9999999``, ``1e999999999`` and ``nan`` are rejected.
"""

import math
import re
from collections.abc import Mapping
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

from hivemind_exp.tasks.verifiers.text import NEARLY, caseless

DIGITS = 60
"""Maximum number of digits before the decimal point, and after it."""
WEEKDAYS = frozenset({"Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"})

_DECIMAL = re.compile(
    rf"[+-]?(?:\d{{1,{DIGITS}}}(?:\.\d{{0,{DIGITS}}})?|\.\d{{1,{DIGITS}}})(?:[eE][+-]?\d{{1,2}})?", re.ASCII
)
_INTEGER = re.compile(rf"[+-]?\d{{1,{DIGITS}}}", re.ASCII)
_PREFIXED = re.compile(rf"([+-]?)(?:0[xX]([0-9a-fA-F]{{1,{DIGITS}}})|0[bB]([01]{{1,{4 * DIGITS}}}))", re.ASCII)
_LATEX = re.compile(rf"\\d?frac\s?\{{\s?(\d{{1,{DIGITS}}})\s?\}}\s?\{{\s?(\d{{1,{DIGITS}}})\s?\}}", re.ASCII)
_RATIO = re.compile(rf"(-?\d{{1,{DIGITS}}})\s?/\s?(\d{{1,{DIGITS}}})", re.ASCII)


def parse_decimal(text: str) -> Decimal | None:
    """Parse ``text`` as a finite decimal number. Return None if it is not one."""
    text = text.strip()
    return Decimal(text) if _DECIMAL.fullmatch(text) else None


def parse_integer(text: str) -> int | None:
    """Parse ``text`` as a decimal integer. Return None if it is not one."""
    text = text.strip()
    return int(text) if _INTEGER.fullmatch(text) else None


def parse_fraction(text: str) -> tuple[int, int] | None:
    r"""Return the numerator and denominator of ``a/b`` or ``\frac{a}{b}``, with or without ``$`` around it, or None."""
    text = text.strip().strip("$").strip()
    found = _LATEX.fullmatch(text) or _RATIO.fullmatch(text)
    return (int(found[1]), int(found[2])) if found else None


def _apart(left: Decimal | None, right: Decimal | None) -> Decimal:
    if left is None or right is None:
        return Decimal("inf")
    with localcontext() as context:
        context.prec = 4 * DIGITS
        return abs(left - right)


def decimal(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for the same number in any notation; for longer text that contains it, its share of the length."""
    answer, right = answer.strip().replace(",", ""), entry["answer"].replace(",", "")
    mine = parse_decimal(answer)
    if mine is not None and mine == parse_decimal(right):
        return 1.0
    return min(len(right) / len(answer), NEARLY) if right in answer else 0.0


def number(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for a number within 0.01 of ``solution``. Commas are allowed."""
    return float(_apart(parse_decimal(answer.replace(",", "")), Decimal(str(entry["solution"]))) < Decimal("0.01"))


def tolerant(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for a number within one unit of the last requested decimal place."""
    unit = Decimal(1).scaleb(-max(entry["decimal_places"]))
    return float(_apart(parse_decimal(answer), parse_decimal(entry["answer"])) <= unit)


def significant(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for a number that is equal when rounded to three significant figures."""
    mine, its = parse_decimal(answer), parse_decimal(entry["answer"])
    return float(mine is not None and its is not None and f"{mine:.2e}" == f"{its:.2e}")


def integer(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for the same integer in base ten, hexadecimal (0x) or binary (0b)."""
    mine = _prefixed_or_decimal(answer.strip())
    return float(mine is not None and mine == _prefixed_or_decimal(entry["answer"].strip()))


def _prefixed_or_decimal(text: str) -> int | None:
    found = _PREFIXED.fullmatch(text)
    if not found:
        return parse_integer(text)
    sign, hexadecimal, binary = found.groups()
    value = int(hexadecimal, 16) if hexadecimal else int(binary, 2)
    return -value if sign == "-" else value


def fraction(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for the simplified fraction; a tenth if its numerator or denominator is unchanged."""
    mine = parse_fraction(answer)
    if mine is None:
        return 0.0
    if mine == (entry["simplified_numerator"], entry["simplified_denominator"]):
        return 1.0
    return 0.1 if mine[0] == entry["numerator"] or mine[1] == entry["denominator"] else 0.05


def factors(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for the prime factors in any order; half if not all are prime but the product is correct."""
    parts = answer.split("×")
    mine = [parse_integer(part) for part in parts[:DIGITS]]
    if len(parts) > DIGITS or any(part is None or part < 1 for part in mine):
        return 0.0
    found = sorted(part for part in mine if part is not None)
    right = sorted(entry["factors"])
    if found == right:
        return 1.0
    return 0.5 if math.prod(found) == math.prod(right) else 0.01


def near_count(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for the correct count; partial credit if it is off by up to four."""
    mine, right = parse_integer(answer), parse_integer(entry["answer"])
    if mine is None or right is None:
        return 0.0
    return 1.0 if mine == right else max(0.0, 0.8 * (1 - abs(mine - right) / 5))


def probability(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for a decimal number or a fraction within 0.0001 of the probability."""
    mine, its = _rational(answer), _rational(entry["answer"])
    return float(mine is not None and its is not None and abs(mine - its) <= Fraction(1, 10_000))


def _rational(text: str) -> Fraction | None:
    text = text.strip().replace(",", "")
    ratio, value = _RATIO.fullmatch(text), parse_decimal(text)
    if ratio:
        return Fraction(int(ratio[1]), int(ratio[2])) if int(ratio[2]) else None
    return None if value is None else Fraction(value)


def calendar(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for the correct day or count; partial credit for another weekday or a nearly correct count."""
    answer, right = answer.strip(), entry["answer"].strip()
    if entry["task"].startswith("weekday_"):
        if answer == right:
            return 1.0
        return 0.1 if answer in WEEKDAYS else 0.05 if answer.title() in WEEKDAYS else 0.0
    count = parse_integer(right)
    if count is None:
        return caseless(answer, entry)
    mine = parse_integer(answer)
    if mine is None or mine == count:
        return float(mine == count)
    # without the limit, e^(−5 · 1/600) would count as correct, although the answer is off by a day
    return min(NEARLY, math.exp(-5 * min(abs(mine - count) / abs(count), 100))) if count else 0.0
