"""The step that a node had recorded but not taken when it ended. Only the journal knows it, so it may still change."""

from dataclasses import replace

from hivemind_exp.journal.records import Manifest, TrainingRow


def within_limit(manifest: Manifest, longest: int) -> tuple[Manifest, int]:
    """Return a step without completions of more than ``longest`` tokens, from any source, and their number.

    They are from a time when generation.max_completion_tokens was higher. If memory ran out in the step because of
    them, the node could otherwise never continue. Conversations stay, because the limit applies to each of their turns.
    """
    kept = tuple(row for row in manifest.rows if not _is_longer(row, longest))
    return replace(manifest, rows=kept), len(manifest.rows) - len(kept)


def _is_longer(row: TrainingRow, longest: int) -> bool:
    return not row.heard and len(row.completion_ids) > longest
