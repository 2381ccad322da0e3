"""A conversation's turns and verdict, as the journal's column ``conversation`` keeps them.

The verdict is written with the turns: the environment's state, from which it follows, does not survive a restart.
"""

import dataclasses
import json

from hivemind_exp.rollouts.types import Rollout, Turn
from hivemind_exp.tasks.base import RewardTerm, Score


def packed(rollout: Rollout) -> str | None:
    """Return a conversation as JSON; None for a completion."""
    if not rollout.turns:
        return None
    turns = [dataclasses.astuple(turn) for turn in rollout.turns]
    score = None if rollout.score is None else dataclasses.asdict(rollout.score)
    return json.dumps({"turns": turns, "score": score})


def unpacked(text: str | None) -> tuple[tuple[Turn, ...], Score | None]:
    """Return what ``packed`` was given; no turns and no score for a completion."""
    if text is None:
        return (), None
    found = json.loads(text)
    turns, score = tuple(Turn(*turn) for turn in found["turns"]), found["score"]
    if score is None:
        return turns, None
    return turns, Score(**score | {"terms": tuple(RewardTerm(**term) for term in score["terms"])})
