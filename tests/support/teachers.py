"""Answers of test servers, as functions that a separate process can import quickly."""

from __future__ import annotations

import hashlib

from tests.support.fake_api.ask import Messages, digest


def two_letters(messages: Messages, index: int) -> str:
    """Return one of two short answers to a prompt, in turn, so that losing a whole group in transit changes nothing."""
    mark = hashlib.sha256(f"{digest(messages)}/{index % 2}".encode()).digest()
    return f"<answer>{''.join('abcdefghij'[byte % 10] for byte in mark[:2])}</answer>"


def half_right(messages: Messages, index: int) -> str:
    """Return the right answer to every second completion of a ``spell_backward`` question, and a wrong one otherwise.

    In turn, like ``two_letters``.
    """
    word = messages[-1]["content"].split()[-1]
    return f"<answer>{word if index % 2 else word[::-1]}</answer>"


def half_right_or_grade(messages: Messages, index: int) -> str:
    """Return a grade to whom asks for one, else a completion."""
    grades = messages[-1]["content"].startswith("--- ")
    return grade(messages, index) if grades else half_right(messages, index)


def last_letter(messages: Messages, _index: int) -> str:
    """Return a hint for a ``spell_backward`` question: how to begin."""
    return f"Begin with {messages[-1]['content'].split()[-1][-1]}."


def grade(messages: Messages, _index: int) -> str:
    """Return a grade that depends only on the text to grade, not on the marks around it."""
    lines = messages[-1]["content"].splitlines()
    begins = max((number for number, line in enumerate(lines) if line.endswith("text begins ---")), default=0)
    return str(hashlib.sha256("\n".join(lines[begins + 1 : -1]).encode()).digest()[0] % 11)
