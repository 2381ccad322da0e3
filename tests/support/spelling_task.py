"""A task that runs in the test process: spell a word from a fixed list backward.

It has the same interface as real tasks, but needs no worker and no library.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from hivemind_exp.models.tiny import TEMPLATE
from hivemind_exp.tasks.base import Heard, Question, Score, Split, Talk


class Spelling:
    """Three-letter words over a small alphabet, shuffled with a seed. Palindromes are left out."""

    def __init__(self, seed: int = 0, letters: str = "abcdefghij", heldout: int = 50) -> None:
        words = [a + b + c for a in letters for b in letters for c in letters if a != c]
        random.Random(seed).shuffle(words)
        self._heldout, self._train = words[:heldout], words[heldout:]

    def questions(self, split: Split, round: int, count: int) -> list[Question]:
        if split == "heldout":
            return [_question(word, split, 0, i) for i, word in enumerate(self._heldout[:count])]
        chosen = random.Random(round).sample(self._train, count)
        return [_question(word, split, round, i) for i, word in enumerate(chosen)]

    def examples(self, count: int) -> dict[str, list[Question]]:
        return {"spelling": self.questions("train", -1, count)}

    def set_aside(self, questions: Sequence[Question]) -> None:
        aside = {question.key for question in questions}
        self._train = [word for word in self._train if word not in aside]

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
        return [
            Score(float(text == f"<answer>{question.entry['answer']}</answer>"), True, "compared")
            for question, text in zip(questions, completions, strict=True)
        ]

    def conversing(self) -> list[str]:
        return []

    def reply(self, questions: Sequence[Question], talks: Sequence[Talk]) -> list[Heard]:  # noqa: ARG002 - has none
        raise AssertionError("no question is a conversation")

    def close(self) -> None:
        pass


def _question(word: str, split: Split, round_: int, index: int) -> Question:
    digest = hashlib.sha256(word.encode()).hexdigest()
    return Question("spelling", split, round_, index, TEMPLATE + word, {"answer": word[::-1]}, digest, word)
