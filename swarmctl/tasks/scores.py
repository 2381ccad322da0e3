"""A verified answer's score, as a sentence and as fields of JSON output."""

from dataclasses import asdict
from typing import Any

from hivemind_exp.tasks.base import Score
from swarmctl.terminal.safe_text import one_line
from swarmctl.terminal.sentences import points


def verdict(score: Score) -> str:
    """Return a score as a sentence."""
    if not score.judged:
        return "not verified: the verifiers keep failing"
    word = "correct" if score.correct else "partly correct" if score.outcome else "wrong"
    why = "" if score.why == word else f": {one_line(score.why)}"
    partly = "; it counts only with game.partial_credit = true" if score.outcome > 0 and not score.correct else ""
    terms = f"; {points(score.terms)}" if score.terms else ""
    return f"{word} (outcome {score.outcome:g}{why}{partly}), reward {score.reward:g}{terms}"


def verdict_fields(score: Score) -> dict[str, Any]:
    """Return a score as fields of JSON output; None for what is not known."""
    known = score.judged
    return {
        "correct": score.correct if known else None,
        "outcome": score.outcome if known else None,
        "reward": score.reward if known else None,
        "terms": [asdict(term) for term in score.terms],
        "why": score.why,
    }
