"""Verifiers that compare answers as text."""

from collections.abc import Mapping, Sequence
from operator import eq
from typing import Any

NEARLY = 0.95
"""Maximum credit for a near miss."""


def in_place(mine: Sequence[Any], right: Sequence[Any]) -> int:
    """Return how many parts of an answer (letters, words, cells) are in the same position as in the correct answer."""
    return sum(map(eq, mine, right))


def exact(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for exactly the reference answer."""
    return float(answer.strip() == entry["answer"].strip())


def caseless(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for the reference answer in any case."""
    return float(answer.strip().lower() == entry["answer"].strip().lower())


def spaceless(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for the reference answer in any case, with any spacing."""
    return float("".join(answer.lower().split()) == "".join(entry["answer"].lower().split()))


def words(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for the reference answer, with any spacing between words."""
    return float(answer.split() == entry["answer"].split())


def containing(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for the reference answer; for longer text that contains it, its share of the length."""
    answer, right = answer.strip(), entry["answer"].strip()
    if answer == right:
        return 1.0
    return min(len(right) / len(answer), NEARLY) if right and right in answer else 0.0


def one_of(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for any of the question's correct answers."""
    return float(answer.strip() in {right.strip() for right in entry["valid_answers"]})


def palindrome(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for any palindrome that uses exactly the given letters."""
    answer = answer.strip().lower()
    if not answer or answer != answer[::-1]:
        return 0.0
    return 1.0 if sorted(answer) == sorted(entry["letters"]) else 0.05


def spelling(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for the word in any case; otherwise the share of letters in the right position, at most 0.8."""
    answer, right = answer.lower(), entry["answer"].lower()
    if answer == right:
        return 1.0
    hits = in_place(answer, right)
    return 0.8 if hits == len(right) else hits / len(right)


def words_in_order(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for the sentence in any case; otherwise the share of words in the right position."""
    mine, right = answer.lower().split(), entry["answer"].lower().split()
    if mine == right:
        return 1.0
    return min(in_place(mine, right) / len(right), NEARLY)


def word_list(answer: str, entry: Mapping[str, Any]) -> float:
    """Full credit for the comma-separated words in order; otherwise the share of words in the right position."""
    mine, right = [word.strip() for word in answer.split(",")], entry["sorted_words"]
    if mine == right:
        return 1.0
    share = in_place(mine, right) / len(right)
    return min(max(share, 0.2) if sorted(mine) == sorted(right) else share, NEARLY)
