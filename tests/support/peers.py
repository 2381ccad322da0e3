"""A swarm in one process: bundles as real nodes make them, and a post office instead of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hivemind_exp.game.prompt_style import TAGS_STYLE, PromptStyle
from hivemind_exp.game.sampling.game import STAGE, build_prompts
from hivemind_exp.models.tiny import build_tokenizer
from hivemind_exp.peers.bundle import FULL, Bundle, BundlePool, SharedGroup
from hivemind_exp.peers.records import PeerBook
from hivemind_exp.peers.sampler import PeerSampler
from hivemind_exp.peers.vetting import PeerRules, PeerTexts
from hivemind_exp.rollouts.types import Group, Rollout, encode_completion
from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.base import Score, Tasks
from tests.support.spelling_task import Spelling

SWARM = "5a" * 32
ME = "12D3KooWMe"
TOKENIZER = build_tokenizer()


@dataclass(frozen=True, slots=True)
class Letter:
    """A bundle as the network delivers it."""

    peer: str
    data: bytes


class PostOffice:
    """Delivers bundles between nodes of one process."""

    def __init__(self) -> None:
        self._boxes: dict[str, list[Letter]] = {}
        self.sent: list[Letter] = []

    def wire(self, peer: str) -> PostBox:
        """Return a node's post box."""
        self._boxes[peer] = []
        return PostBox(self, peer)

    def send(self, peer: str, data: bytes) -> None:
        """Put a bundle into every other node's box; hostile peers do so without a node."""
        self.sent.append(Letter(peer, data))
        for other, box in self._boxes.items():
            if other != peer:
                box.append(Letter(peer, data))

    def empty(self, peer: str) -> list[Letter]:
        """Empty a node's box and return its contents."""
        found, self._boxes[peer] = self._boxes[peer], []
        return found


class PostBox:
    """Stands in for a ``SwarmNode``."""

    def __init__(self, office: PostOffice, peer: str) -> None:
        self._office = office
        self._peer = peer

    def publish(self, bundle: bytes, **_: object) -> None:
        self._office.send(self._peer, bundle)

    def take(self) -> Sequence[Letter]:
        return self._office.empty(self._peer)


def shared_group(index: int, *, round_: int = 0, right: int = 2, size: int = 4, **changes: Any) -> SharedGroup:
    """Return an honest group of ``Spelling`` whose first ``right`` answers are correct."""
    question = Spelling().questions("train", round_, index + 1)[index]
    answer = question.entry["answer"]
    texts = tuple(f"<answer>{answer if place < right else 'aaa'}</answer>" for place in range(size))
    group = SharedGroup(
        task=question.task,
        index=index,
        question=question.digest,
        kind="policy",
        label="tiny",
        outcomes=tuple(FULL if place < right else 0 for place in range(size)),
        cut=(False,) * size,
        texts=texts,
    )
    return replace(group, **changes)


def own_group(index: int = 0, *, right: int = 1, kind: Kind = Kind.POLICY, size: int = 4) -> Group:
    """Return one of this node's own groups, verified."""
    question = Spelling().questions("train", 0, index + 1)[index]
    texts = [f"<answer>{question.entry['answer'] if place < right else 'zzz'}</answer>" for place in range(size)]
    rollouts = tuple(
        Rollout(
            kind,
            "local" if kind.own else "openai",
            text,
            encode_completion(TOKENIZER, text, False),
            False,
            model=None if kind.own else "gpt-4o-mini",
        )
        for text in texts
    )
    scores = tuple(Score(float(place < right), True, "compared") for place in range(size))
    return Group(build_prompts([question], TOKENIZER)[0], rollouts, scores)


def letter(peer: str, *groups: SharedGroup, round_: int = 0, stage: str = STAGE) -> Letter:
    """Return a peer's bundle."""
    return Letter(peer, Bundle(SWARM, peer, round_, stage, groups).pack())


def make_sampler(
    directory: Path,
    *,
    tasks: Tasks | None = None,
    local: int = 8,
    external: int = 8,
    longest: int = 64,
    latest: int = 1000,
    pool: BundlePool | None = None,
    style: PromptStyle = TAGS_STYLE,
    **rules: Any,
) -> PeerSampler:
    """Return a node's ``PeerSampler``; by default its tasks run in this process."""
    texts = PeerTexts(
        TOKENIZER, lambda question: build_prompts([question], TOKENIZER)[0], longest_prompt=64, style=style
    )
    shape: dict[str, Any] = {"group_size": 4, "local": local, "external": external, "longest": longest, **rules}
    return PeerSampler(
        PeerRules(SWARM, ME, STAGE, **shape),
        tasks=Spelling() if tasks is None else tasks,
        texts=texts,
        book=PeerBook(directory / "peerbook.json"),
        latest_round=lambda: latest,
        pool=BundlePool() if pool is None else pool,
    )
