"""How the journal stores a score's terms."""

import json

from hivemind_exp.tasks.base import RewardTerm, Score


def terms_of(score: Score) -> str | None:
    """Return a score's terms as text; None if it has none."""
    if not score.terms:
        return None
    return json.dumps([[term.name, term.value, term.maximum, term.why] for term in score.terms])


def read_terms(terms: str | None) -> tuple[RewardTerm, ...]:
    """Return the terms in a text of ``terms_of``."""
    return () if terms is None else tuple(RewardTerm(*fields) for fields in json.loads(terms))
