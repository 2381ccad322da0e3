"""Offer peers' groups to a source and draw from it, with a task that looks only at the answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from hivemind_exp.peers.bundle import SharedGroup
from hivemind_exp.peers.sampler import PeerSampler
from hivemind_exp.rollouts.types import Group
from hivemind_exp.tasks.base import Question, Score
from tests.support.peers import letter, shared_group
from tests.support.spelling_task import Spelling


class Lenient(Spelling):
    """Looks only at the answer, as real tasks do. Any text may surround it."""

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
        return [
            Score(float(f"<answer>{question.entry['answer']}</answer>" in text), True, "compared")
            for question, text in zip(questions, completions, strict=True)
        ]


def peers_of(groups: Sequence[Group]) -> Counter[str]:
    return Counter(group.rollouts[0].source for group in groups)


def honest(source: PeerSampler, peers: int, groups: int = 1, *, round_: int = 0, start: str = "peer") -> None:
    source.take_in(
        [
            letter(f"{start} {n}", *(shared_group(i, round_=round_) for i in range(groups)), round_=round_)
            for n in range(peers)
        ]
    )


def draw_alone(source: PeerSampler, group: SharedGroup, **kwargs: Any) -> list[Group]:
    source.take_in([letter("hostile", group, **kwargs)])
    return source.draw(seed=0)
