"""A game of two turns that runs in the test process, and a tiny model that knows its letters but not the game.

In the first turn, the model may say anything. Then it hears a capital letter, and must say the small one. With one
turn, it can only guess.
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
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
"""The shortest: what the model must say follows the letter that it hears, so it need not learn to look back."""


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
            return Heard(({"role": "user", "content": letter.upper()},))
        right = float(talk.turns[-1].text == letter)
        terms = (RewardTerm("right", right, None, ""),)
        return Heard(score=Score(right, False, "correct" if right else "wrong", terms))

    def close(self) -> None:
        pass


def save_player(directory: Path, steps: int = 60) -> Path:
    """Save a tiny model that says a letter of the game in every turn, whatever it hears."""
    torch.set_num_threads(1)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = TEMPLATE
    model, chance = build_model(tokenizer, 0), random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    end = tokenizer.eos_token_id
    for _ in range(steps):
        rows = []
        for _ in range(16):
            first, heard, second = (chance.choice(LETTERS) for _ in range(3))
            rows.append([*tokenizer.encode(f"Play.{first}"), end, *tokenizer.encode(f"{heard.upper()}{second}"), end])
        given = torch.tensor(rows)
        logits = model(input_ids=given).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), given[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
