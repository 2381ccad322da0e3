"""Verifiers of generated questions: what the library's own ones accept, decided without evaluating the answer.

Each takes the answer, hostile text of at most ``LONGEST_ANSWER`` characters, and the verifier's entry, and returns
the credit in [0, 1]. Each is linear in the answer, or nearly; none evaluates, compiles or recurses over it, and none
parses a number without a bound on its digits. Near misses stay below ``FULL_CREDIT``, also where the library's own
formula rounds up to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hivemind_exp.tasks.verifiers import calendar, grids, lists, logic, numbers, text

Verifier = Callable[[str, Mapping[str, Any]], float]

VERIFIERS: Mapping[str, Verifier] = {
    "calendar": calendar.calendar,
    "cells": grids.cells,
    "conclusion": logic.conclusion,
    "containing": text.containing,
    "caseless": text.caseless,
    "decimal": numbers.decimal,
    "digits": grids.digits,
    "exact": text.exact,
    "factors": numbers.factors,
    "fraction": numbers.fraction,
    "integer": numbers.integer,
    "matrix": grids.matrix,
    "near_count": numbers.near_count,
    "number": numbers.number,
    "numbers": lists.numbers,
    "one_of": text.one_of,
    "palindrome": text.palindrome,
    "groups": lists.groups,
    "probability": numbers.probability,
    "significant": numbers.significant,
    "spaceless": text.spaceless,
    "spelling": text.spelling,
    "tolerant": numbers.tolerant,
    "word_list": text.word_list,
    "words": text.words,
    "words_in_order": text.words_in_order,
}
"""By the name that ``catalogue.GENERATORS`` uses."""
