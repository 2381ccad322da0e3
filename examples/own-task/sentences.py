"""Write a sentence of a given length that contains a given word."""

import random
import re
from collections.abc import Iterator
from typing import Any

WORDS = ("river", "lamp", "orange", "winter", "train", "window", "garden", "letter", "bridge", "pepper")


def questions(seed: int, longest: int = 9) -> Iterator[dict[str, Any]]:
    """Yield questions. Everything random follows from the seed, so a resumed node gets the same ones."""
    rng = random.Random(seed)
    while True:
        word, length = rng.choice(WORDS), rng.randrange(4, longest + 1)
        text = f'Write a sentence of exactly {length} words that contains the word "{word}".'
        yield {"question": text, "word": word, "length": length}


def score(answer: str, question: dict[str, Any]) -> dict[str, float]:
    """Return the terms of the reward. Whether an answer counts as correct is decided by "correct" alone."""
    words = re.findall(r"[a-z']+", answer.lower())
    off = abs(len(words) - question["length"])
    contains = question["word"] in words
    return {
        "correct": float(contains and off == 0),
        "word": 0.1 * contains,
        "length": 0.2 * max(0.0, 1 - off / question["length"]),
    }
