"""The journal's records, above all the step manifest: everything that a step depends on besides the weights.

A manifest is committed to the journal before its step. Replaying it needs no source, no verifier and no network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgpack

from hivemind_exp.source_kinds import Kind


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One completion, with its weight in the step."""

    kind: Kind
    source: str
    """Where it came from, with the model if that was a provider: "local", "openai:gpt-4o-mini"."""
    task: str
    group: int
    """Rows with the same number answer the same prompt."""
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    text: str
    outcome: float
    """Result of this node's verification, in [0, 1]."""
    advantage: float
    """The row's weight, from its kind's loss."""
    lag: int | None
    behaviour_logps: tuple[float, ...] | None = None
    teacher: str | None = None
    """Provider and model that scored the completion's tokens. None: no teacher has."""
    teacher_logps: tuple[float, ...] | None = None
    """The teacher's log-probabilities, one per token."""
    heard: tuple[tuple[int, int], ...] = ()
    """In a conversation, the completion's tokens that an environment wrote: from, and up to (not included). They are
    context, and nothing is learned from them."""

    @property
    def sampled(self) -> int:
        """The number of the completion's tokens that the model wrote."""
        return len(self.completion_ids) - sum(end - start for start, end in self.heard)

    @property
    def teaches(self) -> bool:
        """Whether the step learns something from the row."""
        return self.advantage != 0 or self.teacher_logps is not None


_SCORES = ("teacher", "teacher_logps")
"""Fields of a row that formats before 4 do not have."""
_TURNS = ("heard",)
"""Fields of a row that formats before 5 do not have."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One optimizer step, ready to take or replay."""

    step: int
    """Optimizer steps taken before this one."""
    round: int
    seed: int
    """Seeds every random generator at the start of the step (dropout)."""
    micro_batch: int
    """Rows per forward and backward pass."""
    rows: tuple[TrainingRow, ...]
    """In processing order."""
    floor: float | None = None
    """A peer's row is filtered out if its mean log-probability per token outside the answer, under this node's weights,
    is below this value. None: no row is."""
    tokens: tuple[int, int] | None = None
    """Sampled tokens of the node's own completions and of external ones, including completions that no row was made
    of. None in formats 1 and 2, whose steps are replayed as they were taken: each source's loss is divided by the
    tokens of its rows, and the filter counts the answer, too."""

    def pack(self) -> bytes:
        names = [field.name for field in dataclasses.fields(TrainingRow)]
        scored = any(row.teacher_logps is not None for row in self.rows)
        talked = any(row.heard for row in self.rows)
        if not talked:  # as format 3 or 4, which older versions read, too
            names = [name for name in names if name not in (_TURNS if scored else (*_SCORES, *_TURNS))]
        rows = [[getattr(row, name) for name in names] for row in self.rows]
        numbers = [self.step, self.round, self.seed, self.micro_batch, self.floor, self.tokens]
        packed: bytes = msgpack.packb([5 if talked else 4 if scored else 3, *numbers, rows])
        return packed

    @classmethod
    def unpack(cls, data: bytes) -> Manifest:
        """Read what ``pack`` wrote. Raises ``ValueError`` for another format."""
        version, *fields = msgpack.unpackb(data, use_list=False)
        if version not in (1, 2, 3, 4, 5):
            raise ValueError(f"unknown step manifest format {version}; this version reads formats 1 to 5")
        *numbers, packed = fields
        step, round_, seed, micro_batch, floor, tokens = [*numbers, None, None][:6]
        rows = tuple(TrainingRow(Kind(row[0]), *row[1:]) for row in packed)
        return cls(step, round_, seed, micro_batch, rows, floor, tokens)


@dataclass(frozen=True, slots=True)
class QuestionResult:
    """How the node's own completions did on one question of a step's answer stage."""

    round: int
    task: str
    position: int | None
    """The question's position in a fixed set."""
    level: int | None
    """The question's level of difficulty, if ``game.curriculum`` was on."""
    completions: int
    """The node's own completions that were verified."""
    correct: int
    strict: int
    """Those in exactly the format that the prompt asked for."""


SCORED_BY = ", scored by "


def _maker(row: TrainingRow) -> str:
    return row.source if row.teacher is None else f"{row.source}{SCORED_BY}{row.teacher}"


@dataclass(frozen=True, slots=True)
class SourceContribution:
    """What one source contributed to training."""

    kind: Kind
    source: str
    """Where the completions came from: "local", a provider's name or a peer's id. Ends with ``SCORED_BY`` and the
    teacher's name if a teacher scored their tokens."""
    completions: int
    tokens: int


def contributions(manifest: Manifest) -> Iterator[SourceContribution]:
    """Yield each source's contribution to a step. Rows that teach nothing don't count."""
    weighty = [(row.kind, _maker(row), row) for row in manifest.rows if row.teaches]
    for kind, source in sorted({(kind, source) for kind, source, _ in weighty}):
        rows = [row for *key, row in weighty if key == [kind, source]]
        tokens = [row.sampled for row in rows]
        if kind is Kind.HINTED:  # each has two rows: without the hint and with it
            tokens = [len(ids) for _, ids in dict.fromkeys((row.group, row.completion_ids) for row in rows)]
        yield SourceContribution(kind, source, len(tokens), sum(tokens))


FOREIGN = 1_000_000
"""Number of slots reserved for each of a round's peer groups. The node's own group has the slots below this number."""


def peer_completion_index(number: int) -> int:
    """Return the first slot of a round's peer group ``number``, counted from 0."""
    return FOREIGN * (number + 1)


def index_in_group(place: int) -> int:
    """Return a completion's slot within its own group, whether the node's or a peer's."""
    return place % FOREIGN


@dataclass(frozen=True, slots=True)
class StageRun:
    """The part of a round that one step learns from."""

    round: int
    """The round's number in the game, which identifies prompts, completions and bundles. In a swarm that plays by the
    clock it is the swarm's round number, and a node may miss rounds."""
    stage: str
    chunk: int = 0
    """Number of the chunk of ``game.groups`` questions in the round's endless sequence of questions. Only a node that
    is faster than its swarm's clock gets beyond the first chunk."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of one evaluation on held-out questions."""

    round: int
    accuracy: float
    """Share of questions answered correctly, in [0, 1]."""
    questions: int
    by_task: dict[str, float]
    """Accuracy per task."""
    answers: dict[str, bool] = field(default_factory=dict, compare=False)
    """Whether each question was answered correctly, by digest. Empty for an evaluation that was read again."""
