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


def first_step(question: str) -> str:
    """Return a hint that a larger model could write: the first step of a sum, or of reversing a list of words.

    Empty for other questions.
    """
    _, reversing, words = question.rpartition("Reverse this list of words: ")
    if reversing:
        last = words.strip().split(", ")[-1]
        return f"Go from the last word to the first one. The last word is {last}, so begin with {last}."
    match question.rstrip("?").split():
        case ["What", "is", first, "+", second]:
            tens, ones = 10 * (int(first) // 10 + int(second) // 10), int(first) % 10 + int(second) % 10
            return f"The tens give {tens} and the ones give {ones}. Add these two numbers."
    return ""


_FILES: dict[str, Callable[[random.Random], tuple[str, int]]] = {"sum": _sum, "largest": _largest}
"""Questions of our own, as a user would bring them."""

_GYM: dict[str, tuple[str, dict[str, Any]]] = {
    "chain_sum": ("chain_sum", {"min_terms": 2, "max_terms": 2, "min_digits": 2, "max_digits": 2}),
    "chain_sum_short": ("chain_sum", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}),
    "chain_sum_of_three": ("chain_sum", {"min_terms": 3, "max_terms": 3, "min_digits": 1, "max_digits": 1}),
    "decimal_chain_sum": (
        "decimal_chain_sum",
        {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1, "max_decimal_places": 1},
    ),
    "basic_arithmetic": ("basic_arithmetic", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}),
    "difference": (
        "basic_arithmetic",
        {
            "min_terms": 2,
            "max_terms": 2,
            "min_digits": 2,
            "max_digits": 2,
            "operators": ["-"],
            "allow_parentheses": False,
            "allow_negation": False,
        },
    ),
    "gcd": ("gcd", {"min_numbers": 2, "max_numbers": 2, "min_value": 1, "max_value": 30}),
    "lcm": ("lcm", {"min_numbers": 2, "max_numbers": 2, "min_value": 1, "max_value": 30}),
    "letter_counting": ("letter_counting", {"min_words": 1, "max_words": 2}),
    "letter_counting_longer": ("letter_counting", {"min_words": 5, "max_words": 8}),
    "leg_counting": ("leg_counting", {"min_animals": 1, "max_animals": 2, "min_instances": 1, "max_instances": 4}),
    "leg_counting_alike": (
        "leg_counting",
        {"min_animals": 1, "max_animals": 1, "min_instances": 1, "max_instances": 9},
    ),
    "count_primes": ("count_primes", {"min_n": 1, "max_n": 40}),
    "count_bits": ("count_bits", {"min_n": 1, "max_n": 500}),
    "fraction_simplification": (
        "fraction_simplification",
        {"min_value": 1, "max_value": 20, "min_factor": 2, "max_factor": 5, "styles": ["plain"]},
    ),
    "number_format": ("number_format", {"min_num_candidates": 2, "max_num_candidates": 2, "min_n": 10, "max_n": 1000}),
    "number_filtering": (
        "number_filtering",
        {"min_numbers": 3, "max_numbers": 4, "max_decimals": 0, "min_value": 0, "max_value": 99},
    ),
    "number_sequence": (
        "number_sequence",
        {"min_terms": 4, "max_terms": 4, "min_value": 0, "max_value": 20, "max_complexity": 1},
    ),
    "simple_equations": ("simple_equations", {"min_terms": 2, "max_terms": 2, "min_value": 1, "max_value": 9}),
    "simple_geometry": ("simple_geometry", {"min_sides": 3, "max_sides": 3}),
    "spell_backward": ("spell_backward", {"min_word_len": 3, "max_word_len": 3}),
    "word_sequence_reversal": ("word_sequence_reversal", {"min_words": 3, "max_words": 3}),
    "sentence_reordering": ("sentence_reordering", {"min_words_in_sentence": 3, "max_words_in_sentence": 4}),
    "needle_haystack": ("needle_haystack", {"min_num_statements": 4, "max_num_statements": 5}),
    "family_relationships": ("family_relationships", {"min_family_size": 4, "max_family_size": 4}),
    "number_format_of_three": (
        "number_format",
        {"min_num_candidates": 3, "max_num_candidates": 3, "min_n": 10, "max_n": 1000},
    ),
    "number_sorting": (
        "number_sorting",
        {"min_numbers": 3, "max_numbers": 3, "min_decimals": 0, "max_decimals": 0, "min_value": 0, "max_value": 99},
    ),
    "word_sorting": ("word_sorting", {"min_words": 3, "max_words": 3}),
    "products": ("products", {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2}),
    "spiral_matrix": ("spiral_matrix", {"min_n": 2, "max_n": 2}),
    "rotate_matrix": ("rotate_matrix", {"min_n": 2, "max_n": 2, "min_rotations": 1, "max_rotations": 1}),
    "manipulate_matrix": (
        "manipulate_matrix",
        {"min_rows": 2, "max_rows": 2, "min_cols": 2, "max_cols": 2, "min_transforms": 1, "max_transforms": 1},
    ),
    "palindrome_generation": ("palindrome_generation", {"min_length": 3, "max_length": 3}),
    "letter_jumble": ("letter_jumble", {"min_words": 1, "max_words": 1, "min_word_len": 3, "max_word_len": 5}),
    "color_cube_rotation": ("color_cube_rotation", {"min_rotations": 1, "max_rotations": 1}),
    "aiw": ("aiw", {"max_entities": 4}),
}
"""Tasks of reasoning-gym: the generator and its parameters. Each makes well over 200 different questions."""

PROFILE = "profile"
"""Stands for the profile's own tasks."""
NAMES = (PROFILE, *_FILES, *_GYM)


def table(name: str, directory: Path) -> dict[str, Any] | None:
    """Return a task's table for a profile; None for the profile's own. Files are written to ``directory``."""
    if name == PROFILE:
        return None
    if name in _GYM:
        generator, params = _GYM[name]
        return {"name": generator, "params": params}
    path = directory / f"{name}.jsonl"
    chance = random.Random(0)
    drawn = dict(_FILES[name](chance) for _ in range(_QUESTIONS))
    rows = [json.dumps({"question": question, "answer": str(answer)}) for question, answer in drawn.items()]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {"name": "jsonl", "path": str(path)}
