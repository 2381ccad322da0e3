"""How a stage's prompts are recorded in the journal."""

import json
from collections.abc import Sequence

from hivemind_exp.rollouts.types import Prompt

Batch = tuple[str, Sequence[tuple[object, ...]]]
"""A statement with the values of each of its runs."""


def statements(swarm: str, round_: int, prompts: Sequence[Prompt], first: int) -> list[Batch]:
    """Return what records a stage's prompts. ``first``: the position of ``prompts[0]`` in the stage.

    A question that was recorded keeps its prompt. Another one in its place is replaced: a run that was killed asked a
    round early, and this one, with other settings (``offload.ahead``, ``game.rest``), chooses other questions for it.
    """
    asked = list(enumerate(prompts, first))
    # Positions before are overwritten, or belong to questions that the stage asks twice.
    return [
        (
            "DELETE FROM prompts WHERE swarm=? AND round=? AND stage=? AND question=? AND position>?",
            [(swarm, round_, p.stage, p.question.digest, n) for n, p in asked],
        ),
        (
            "INSERT INTO prompts VALUES (?,?,?,?,?,?,?) ON CONFLICT (swarm, round, stage, position) DO UPDATE "
            "SET task=excluded.task, question=excluded.question, messages=excluded.messages "
            "WHERE question!=excluded.question",
            [(swarm, round_, p.stage, n, p.question.task, p.question.digest, json.dumps(p.messages)) for n, p in asked],
        ),
        (
            "INSERT OR IGNORE INTO notes VALUES (?,?,?,?,?)",
            [
                (swarm, round_, p.stage, p.question.digest, json.dumps(p.notes, sort_keys=True))
                for p in prompts
                if p.notes
            ],
        ),
    ]
