"""What a step learns from, counted: the completions that weigh something, by who made them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hivemind_exp.journal.records import Manifest
from hivemind_exp.rollouts.types import Kind


@dataclass(frozen=True, slots=True)
class Lesson:
    """One source's part in what was learned."""

    kind: Kind
    source: str
    """Who made the completions: "local", a provider's name or a peer's id."""
    completions: int
    tokens: int


def taught(manifest: Manifest) -> Iterator[Lesson]:
    """Yield each source's part in a step. Rows without an advantage teach nothing, whoever made them."""
    weighty = [row for row in manifest.rows if row.advantage != 0]
    for kind, source in sorted({(row.kind, row.source) for row in weighty}):
        rows = [row for row in weighty if (row.kind, row.source) == (kind, source)]
        yield Lesson(kind, source, len(rows), sum(len(row.completion_ids) for row in rows))
