"""The audited reasoning-gym generators: the module of each one and how its answers are verified.

Only the names listed here can be used. Answers are never verified by the library's code, because some of it evaluates
the answer. The verifiers are in ``verifiers``. Audited at version 0.1.25.
"""

from collections.abc import Mapping
from typing import NamedTuple

LIBRARY = "reasoning-gym"


class Generator(NamedTuple):
    """One generator."""

    module: str
    """Its module under ``reasoning_gym``."""
    check: str
    """Its verifier: module and function under ``hivemind_exp.tasks.verifiers``."""
    keep: tuple[str, ...] = ()
    """Metadata that the verifier needs besides the answer. Dots separate the levels of nested tables."""
    shared: bool = False
    """One object generates all items, as it reads a file when built. A test checks that the items stay the same."""


GENERATORS: Mapping[str, Generator] = {
    "ab": Generator("algorithmic.ab", "text.exact"),
    "acre": Generator("induction.acre.acre", "text.containing"),
    "aiw": Generator("logic.aiw", "text.containing"),
    "arc_1d": Generator("arc.arc_1d", "text.containing"),
    "arc_agi": Generator("arc.arc_agi", "lists.matrix", shared=True),
    "base_conversion": Generator("algorithmic.base_conversion", "text.containing", shared=True),
    "basic_arithmetic": Generator("arithmetic.basic_arithmetic", "text.containing"),
    "bf": Generator("code.bf", "text.containing"),
    "binary_alternation": Generator("algorithmic.binary_alternation", "text.containing"),
    "binary_matrix": Generator("algorithmic.binary_matrix", "lists.matrix"),
    "bitwise_arithmetic": Generator("arithmetic.bitwise_arithmetic", "numbers.integer"),
    "caesar_cipher": Generator("algorithmic.caesar_cipher", "text.containing", shared=True),
    "calendar_arithmetic": Generator("arithmetic.calendar_arithmetic", "numbers.calendar", ("task",)),
    "chain_sum": Generator("arithmetic.chain_sum", "numbers.decimal"),
    "circuit_logic": Generator("logic.circuit_logic", "text.exact"),
    "coin_flip": Generator("probability.coin_flip", "numbers.probability"),
    "color_cube_rotation": Generator("cognition.color_cube_rotation", "text.caseless"),
    "count_bits": Generator("arithmetic.count_bits", "text.containing"),
    "count_primes": Generator("algorithmic.count_primes", "text.containing"),
    "course_schedule": Generator("graphs.course_schedule", "text.containing"),
    "decimal_arithmetic": Generator(
        "arithmetic.decimal_arithmetic", "numbers.tolerant", ("difficulty.decimal_places",)
    ),
    "decimal_chain_sum": Generator("arithmetic.decimal_chain_sum", "numbers.decimal"),
    "dice": Generator("arithmetic.dice", "text.spaceless"),
    "emoji_mystery": Generator("games.emoji_mystery", "text.exact", shared=True),
    "family_relationships": Generator("graphs.family_relationships", "text.caseless"),
    "figlet_font": Generator("cognition.figlet_fonts", "text.spaceless"),
    "fraction_simplification": Generator(
        "arithmetic.fraction_simplification",
        "numbers.fraction",
        ("numerator", "denominator", "simplified_numerator", "simplified_denominator"),
    ),
    "futoshiki": Generator("games.futoshiki", "lists.digits", ("solution",)),
    "game_of_life": Generator("algorithmic.game_of_life", "lists.cells"),
    "game_of_life_halting": Generator("algorithmic.game_of_life_halting", "text.caseless"),
    "gcd": Generator("arithmetic.gcd", "text.containing"),
    "group_anagrams": Generator("algorithmic.group_anagrams", "lists.groups", ("solution",), shared=True),
    "gsm_symbolic": Generator("arithmetic.gsm_symbolic.gsm_symbolic", "numbers.decimal"),
    "isomorphic_strings": Generator("algorithmic.isomorphic_strings", "text.containing"),
    "largest_island": Generator("graphs.largest_island", "text.containing"),
    "lcm": Generator("arithmetic.lcm", "text.containing"),
    "leg_counting": Generator("arithmetic.leg_counting", "text.containing"),
    "letter_counting": Generator("algorithmic.letter_counting", "text.containing", shared=True),
    "letter_jumble": Generator("algorithmic.letter_jumble", "text.words_in_order", shared=True),
    "mahjong_puzzle": Generator("games.mahjong", "text.containing"),
    "manipulate_matrix": Generator("algorithmic.manipulate_matrix", "lists.matrix"),
    "maze": Generator("games.maze", "text.containing"),
    "mini_sudoku": Generator("games.mini_sudoku", "lists.digits", ("solution",)),
    "modulo_grid": Generator("cognition.modulo_grid", "text.containing"),
    "n_queens": Generator("games.n_queens", "text.one_of", ("valid_answers",)),
    "needle_haystack": Generator("cognition.needle_haystack", "text.spaceless"),
    "number_filtering": Generator("algorithmic.number_filtering", "text.containing"),
    "number_format": Generator("arithmetic.number_format", "numbers.number", ("solution",)),
    "number_sequence": Generator("cognition.number_sequences", "text.containing"),
    "number_sorting": Generator("algorithmic.number_sorting", "lists.numbers"),
    "palindrome_generation": Generator("algorithmic.palindrome_generation", "text.palindrome", ("letters",)),
    "path_star": Generator("graphs.path_star", "text.words"),
    "power_function": Generator("arithmetic.power_function", "numbers.significant"),
    "prime_factorization": Generator("arithmetic.prime_factorization", "numbers.factors", ("factors",)),
    "products": Generator("arithmetic.products", "numbers.decimal"),
    "propositional_logic": Generator("logic.propositional_logic", "logic.conclusion", ("variables", "premises")),
    "ransom_note": Generator("algorithmic.ransom_note", "text.containing"),
    "rearc": Generator("arc.rearc", "lists.matrix", shared=True),
    "rectangle_count": Generator("cognition.rectangle_count", "numbers.near_count"),
    "rotate_matrix": Generator("algorithmic.rotate_matrix", "lists.matrix"),
    "rotten_oranges": Generator("algorithmic.rotten_oranges", "text.containing"),
    "self_reference": Generator("logic.self_reference", "text.exact"),
    "sentence_reordering": Generator("algorithmic.sentence_reordering", "text.words_in_order", shared=True),
    "simple_equations": Generator("algebra.simple_equations", "text.containing"),
    "simple_geometry": Generator("geometry.simple_geometry", "text.containing"),
    "spell_backward": Generator("algorithmic.spell_backward", "text.spelling", shared=True),
    "spiral_matrix": Generator("algorithmic.spiral_matrix", "lists.matrix"),
    "string_insertion": Generator("algorithmic.string_insertion", "text.exact"),
    "string_manipulation": Generator("algorithmic.string_manipulation", "text.containing"),
    "string_splitting": Generator("algorithmic.string_splitting", "text.containing"),
    "string_synthesis": Generator("algorithmic.string_synthesis", "text.containing"),
    "sudoku": Generator("games.sudoku", "lists.digits", ("solution",)),
    "survo": Generator("games.survo", "lists.matrix"),
    "syllogism": Generator("logic.syllogisms", "text.containing"),
    "tsumego": Generator("games.tsumego", "text.caseless"),
    "word_sequence_reversal": Generator("algorithmic.word_sequence_reversal", "text.containing", shared=True),
    "word_sorting": Generator("algorithmic.word_sorting", "text.word_list", ("sorted_words",), shared=True),
    "zebra_puzzles": Generator("logic.zebra_puzzles", "text.spaceless"),
}

_EVALUATES = "its verifier evaluates the answer, so an answer can run code"
_CLOSE = "its verifier gives nearly full credit for wrong answers that are close"
_DROPS = "its verifier ignores what it cannot read, so any text around an answer passes"
_PLAN = "verifying its answer means simulating it, and no verifier here does that yet"

REFUSED: Mapping[str, str] = {
    "advanced_geometry": "its verifier reads numbers without bounds and rounds only some answers",
    "boxnet": _PLAN,
    "codeio": "its verifier traverses nested JSON of any depth, and its answers can be 9000 characters long",
    "complex_arithmetic": _CLOSE,
    "composite": "it only mixes other generators; list those instead",
    "countdown": _EVALUATES,
    "cryptarithm": _PLAN,
    "graph_color": _PLAN,
    "intermediate_integration": _EVALUATES,
    "jugs": _PLAN,
    "kakurasu": _DROPS,
    "knight_swap": "making one question takes a second, and the questions depend on Python's hash seed",
    "knights_knaves": _DROPS,
    "list_functions": "some of its questions come from a random number generator without a seed",
    "palindrome_partitioning": "its correct answers can be any length, up to megabytes",
    "polynomial_equations": _CLOSE,
    "polynomial_multiplication": _EVALUATES,
    "pool_matrix": "it seeds a process-wide random number generator, and its verifier accepts a 1% error",
    "puzzle24": _EVALUATES,
    "quantum_lock": _DROPS,
    "rubiks_cube": _PLAN,
    "rush_hour": _PLAN,
    "shortest_path": _PLAN,
    "simple_integration": _EVALUATES,
    "sokoban": _PLAN,
    "time_intervals": _CLOSE,
    "tower_of_hanoi": _PLAN,
    "word_ladder": "its questions depend on Python's hash seed, and its verifier needs long word lists",
}
"""Generators that cannot be used, with the reason."""
