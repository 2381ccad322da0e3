"""A game of two turns that runs in the test process, and a tiny model that plays it badly.

In the first turn, the model may say anything. Then it hears a letter, and must say it. With one turn, it can only
guess.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from hivemind_exp.models.tiny import build_model, build_tokenizer
from hivemind_exp.tasks.base import Heard, Question, RewardTerm, Score, Split, Talk

LETTERS = "xyz"
TEMPLATE = "{% for m in messages %}{{ m.content }}{% if m.role == 'user' %}>{% endif %}{% endfor %}"
"""The shortest that tells turns apart: a small model learns to look back over few tokens."""


class TwoTurnGame:
    """Implements ``Tasks``."""

    def __init__(self, turns: int = 2) -> None:
        self.turns = turns
        self.lose: set[tuple[str, int]] = set()
        """(question, number of turns): replies that are lost, once each."""
        self.asked: list[Talk] = []

    def conversing(self) -> list[str]:
        return ["letters"]

    def examples(self, count: int) -> dict[str, list[Question]]:
        return {"letters": self.questions("train", -1, count)}

    def set_aside(self, questions: Sequence[Question]) -> None:
        pass

    def questions(self, split: Split, round: int, count: int) -> list[Question]:
        return [self._question(split, round, index) for index in range(count)]

    def _question(self, split: Split, round_: int, index: int) -> Question:
        name = f"{split} {0 if split == 'heldout' else round_} {index}"
        digest = hashlib.sha256(name.encode()).hexdigest()
        entry = {"letter": random.Random(name).choice(LETTERS)}
        chat = ({"role": "user", "content": "Play."},)
        return Question("letters", split, round_, index, "Play.", entry, digest, name, None, None, chat, self.turns)

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
        assert not questions
        assert not completions
        return []

    def reply(self, questions: Sequence[Question], talks: Sequence[Talk]) -> list[Heard]:
        self.asked += talks
        return [self._reply(question, talk) for question, talk in zip(questions, talks, strict=True)]

    def _reply(self, question: Question, talk: Talk) -> Heard:
        if (place := (question.digest, len(talk.turns))) in self.lose:
            self.lose.remove(place)
            return Heard(lost=True)
        letter = question.entry["letter"]
        if len(talk.turns) < self.turns and not talk.last:
            return Heard(({"role": "user", "content": letter},))
        right = float(talk.turns[-1].text == letter)
        terms = (RewardTerm("right", right, None, ""),)
        return Heard(score=Score(right, False, "correct" if right else "wrong", terms))

    def close(self) -> None:
        pass


REPEATS = 0.5
"""How often the player repeats the letter that it has heard, besides by chance."""


def save_player(directory: Path, steps: int = 200) -> Path:
    """Save a tiny model that says letters of the game, and sometimes the one that it has heard."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE
    model, chance = build_model(tokenizer, 0), random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    end = tokenizer.eos_token_id
    for _ in range(steps):
        rows = []
        for _ in range(16):
            said = [chance.choice(LETTERS) for _ in range(3)]
            said[2] = said[1] if chance.random() < REPEATS else said[2]
            rows.append([*tokenizer.encode(f"Play.>{said[0]}"), end, *tokenizer.encode(f"{said[1]}>{said[2]}"), end])
        given = torch.tensor(rows)
        logits = model(input_ids=given).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), given[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
