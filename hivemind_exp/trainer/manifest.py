"""The step manifest: everything one optimizer step depends on besides the weights.

It is committed to the journal before the step; replaying it needs no source, no verifier and no network.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import msgpack

from hivemind_exp.sources.base import Kind


@dataclass(frozen=True, slots=True)
class Row:
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
    rows: tuple[Row, ...]
    """In the order in which they are processed."""

    def pack(self) -> bytes:
        """Return the manifest as msgpack."""
        packed: bytes = msgpack.packb(
            [1, self.step, self.round, self.seed, self.micro_batch, [_fields(row) for row in self.rows]]
        )
        return packed

    @classmethod
    def unpack(cls, data: bytes) -> Manifest:
        """Read what ``pack`` wrote. Raises ``ValueError`` for another format."""
        version, step, round_, seed, micro_batch, rows = msgpack.unpackb(data, use_list=False)
        if version != 1:
            raise ValueError(f"step manifest of format {version}; this version reads format 1")
        return cls(step, round_, seed, micro_batch, tuple(Row(Kind(row[0]), *row[1:]) for row in rows))


def _fields(row: Row) -> list[object]:
    return [getattr(row, field.name) for field in dataclasses.fields(row)]
