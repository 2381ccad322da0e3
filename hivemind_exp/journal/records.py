"""The step manifest: everything one optimizer step depends on besides the weights.

It is committed to the journal before the step; replaying it needs no source, no verifier and no network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import msgpack

from hivemind_exp.rollouts.types import Kind


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One completion with what is learned from it."""

    kind: Kind
    source: str
    """Who made it, with the model where a provider did: "local", "openai:gpt-4o-mini"."""
    task: str
    group: int
    """Rows of equal number answer the same prompt."""
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    text: str
    outcome: float
    """Verified here, in [0, 1]."""
    advantage: float
    """The row's weight, from its kind's loss."""
    lag: int | None
    behaviour_logps: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """One optimizer step, ready to be taken or replayed."""

    step: int
    """Optimizer steps taken before this one."""
    round: int
    seed: int
    """Seeds every random generator at the start of the step (dropout)."""
    micro_batch: int
    """Rows of one forward and backward pass."""
    rows: tuple[TrainingRow, ...]
    """In the order in which they are processed."""
    floor: float | None = None
    """Mean log-probability a token, under this node's weights, below which a peer's row is left out. None: none is."""

    def pack(self) -> bytes:
        names = [field.name for field in dataclasses.fields(TrainingRow)]
        rows = [[getattr(row, name) for name in names] for row in self.rows]
        packed: bytes = msgpack.packb([2, self.step, self.round, self.seed, self.micro_batch, self.floor, rows])
        return packed

    @classmethod
    def unpack(cls, data: bytes) -> Manifest:
        """Read what ``pack`` wrote. Raises ``ValueError`` for another format."""
        version, *fields = msgpack.unpackb(data, use_list=False)
        if version not in (1, 2):
            raise ValueError(f"step manifest of format {version}; this version reads formats 1 and 2")
        *numbers, rows = fields
        step, round_, seed, micro_batch, floor = numbers if version == 2 else [*numbers, None]
        return cls(step, round_, seed, micro_batch, tuple(TrainingRow(Kind(row[0]), *row[1:]) for row in rows), floor)


@dataclass(frozen=True, slots=True)
class SourceContribution:
    """One source's part in what was learned."""

    kind: Kind
    source: str
    """Who made the completions: "local", a provider's name or a peer's id."""
    completions: int
    tokens: int


def contributions(manifest: Manifest) -> Iterator[SourceContribution]:
    """Yield each source's part in a step. Rows without an advantage teach nothing, whoever made them."""
    weighty = [row for row in manifest.rows if row.advantage != 0]
    for kind, source in sorted({(row.kind, row.source) for row in weighty}):
        rows = [row for row in weighty if (row.kind, row.source) == (kind, source)]
        yield SourceContribution(kind, source, len(rows), sum(len(row.completion_ids) for row in rows))


FOREIGN = 1_000_000
"""Places from one peer's group to the next in one round; the node's own group has those below the first."""


def peer_completion_index(number: int) -> int:
    """Return the first place of the peers' group of this number in a round, counted from 0."""
    return FOREIGN * (number + 1)


def index_in_group(place: int) -> int:
    """Return the place of a completion within its own group, whoever's group that is."""
    return place % FOREIGN


@dataclass(frozen=True, slots=True)
class StageRun:
    """What one step is about."""

    round: int
    """Number of the round within the game: what prompts, completions and bundles are known by. In a swarm that plays
    by the clock it is the swarm's, and the node may miss some."""
    stage: str
    chunk: int = 0
    """Which stretch of the round's endless sequence of questions, each of ``game.groups``. Only a node that is faster
    than its swarm's clock gets beyond the first."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One look at the held-out questions."""

    round: int
    accuracy: float
    """Share of questions answered right, in [0, 1]."""
    questions: int
    by_task: dict[str, float]
    """The same for each task."""
