"""The tasks on which a real model of 135 M parameters is measured: easy enough for some correct answers at first."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

_QUESTIONS = 20_000


def _sum(chance: random.Random) -> tuple[str, int]:
    first, second = chance.randint(10, 99), chance.randint(10, 99)
    return f"What is {first} + {second}?", first + second


def _largest(chance: random.Random) -> tuple[str, int]:
    numbers = chance.sample(range(10, 1000), 4)
    return "Which is the largest of {}, {}, {} and {}?".format(*numbers), max(numbers)


_FILES: dict[str, Callable[[random.Random], tuple[str, int]]] = {"sum": _sum, "largest": _largest}
"""Questions of our own, as a user would bring them."""

_GYM: dict[str, dict[str, Any]] = {
    "chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2},
    "basic_arithmetic": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2},
    "products": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
    "gcd": {"min_numbers": 2, "max_numbers": 2, "min_value": 1, "max_value": 30},
    "letter_counting": {"min_words": 1, "max_words": 2},
    "leg_counting": {"min_animals": 1, "max_animals": 2, "min_instances": 1, "max_instances": 4},
    "count_primes": {"min_n": 1, "max_n": 20},
    "fraction_simplification": {"min_value": 1, "max_value": 8, "min_factor": 2, "max_factor": 5, "styles": ["plain"]},
    "number_format": {"min_num_candidates": 2, "max_num_candidates": 3, "min_n": 10, "max_n": 1000},
    "simple_equations": {"min_terms": 2, "max_terms": 2, "min_value": 1, "max_value": 9},
    "count_bits": {"min_n": 1, "max_n": 30},
    "calendar_arithmetic": {"tasks": ["is_leap_year"]},
    "decimal_chain_sum": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
    "spell_backward": {"min_word_len": 3, "max_word_len": 3},
    "prime_factorization": {"min_value": 2, "max_value": 30},
    "lcm": {"min_numbers": 2, "max_numbers": 2, "min_value": 1, "max_value": 12},
}
"""Tasks of reasoning-gym and their parameters."""

NAMES = (*_FILES, *_GYM)


def table(name: str, directory: Path) -> dict[str, Any]:
    """Return a task's table for a profile. Files are written to ``directory``."""
    if name in _GYM:
        return {"name": name, "params": _GYM[name]}
    path = directory / f"{name}.jsonl"
    chance = random.Random(0)
    drawn = dict(_FILES[name](chance) for _ in range(_QUESTIONS))
    rows = [json.dumps({"question": question, "answer": str(answer)}) for question, answer in drawn.items()]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {"name": "jsonl", "path": str(path)}
