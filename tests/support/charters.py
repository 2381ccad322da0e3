"""A charter for tests to start from."""

from __future__ import annotations

import dataclasses
from typing import Any

from hivemind_exp.swarm.charter import Charter, CharterTask
from hivemind_exp.swarm.identity import Identity

FOUNDER = Identity.generate()
WORDS = CharterTask(
    label="spell_backward",
    name="spell_backward",
    params={"min_word_len": 3, "nested": {"p": 0.1, "list": [1, None, True, "é"]}},
    check="exact",
    weight_ppm=750_000,
    version="reasoning-gym 0.1.25",
    digest="ab" * 32,
    size=None,
    sha256=None,
)
FILE = CharterTask(
    label="jsonl",
    name="jsonl",
    params={},
    check="math",
    weight_ppm=250_000,
    version="",
    digest="cd" * 32,
    size=100,
    sha256="ef" * 32,
)


LEVELS: tuple[dict[str, Any], ...] = ({"max_word_len": 3}, {"max_word_len": 4, "p": 0.5}, {"max_word_len": 10})
"""Levels of difficulty of the first task, if the charter allows a curriculum."""


def with_curriculum(**changes: Any) -> Charter:
    """Return a charter that allows a curriculum, with changes."""
    return charter(**{"curriculum": True, "tasks": (words(levels=LEVELS), FILE), **changes})


def charter(**changes: Any) -> Charter:
    """Return a charter created by ``FOUNDER``, with changes."""
    whole: dict[str, Any] = {
        "name": "maths",
        "founder": FOUNDER.peer_id,
        "t0": 1_760_000_000,
        "nonce": "0f" * 16,
        "game": "sampling",
        "group_size": 8,
        "stage_time": 60,
        "is_open": False,
        "tasks": (WORDS, FILE),
    }
    return Charter(**whole | changes)


def words(**changes: Any) -> CharterTask:
    """Return the first task, with changes."""
    return dataclasses.replace(WORDS, **changes)
