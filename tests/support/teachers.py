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
