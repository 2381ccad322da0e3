"""A completion as the journal stores it, as a rollout again."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from hivemind_exp.journal import conversation
from hivemind_exp.rollouts.types import Rollout
from hivemind_exp.source_kinds import Kind


def stored_rollout(row: Sequence[Any], version: int, encode: Callable[[str, bool], tuple[int, ...]] | None) -> Rollout:
    """Return the rollout of a row: kind, source, model, version, text, ids, truncated, logps, conversation.

    ``version``: the node's optimizer steps now. ``encode``: returns the token ids of a text recorded without any.
    """
    kind, source, model, made, text, ids, truncated, logps, talk = row
    turns, score = conversation.unpacked(talk)
    return Rollout(
        kind=Kind(kind),
        source=source,
        model=model,
        text=text,
        ids=_ids(ids, text, bool(truncated), encode),
        truncated=bool(truncated),
        lag=None if made is None else version - made,
        behaviour_logps=None if logps == "null" else tuple(json.loads(logps)),
        turns=turns,
        score=score,
    )


def _ids(
    ids: str | None, text: str, truncated: bool, encode: Callable[[str, bool], tuple[int, ...]] | None
) -> tuple[int, ...]:
    if ids is not None:
        return tuple(json.loads(ids))
    if encode is None:
        raise ValueError("the journal has API texts without token ids, and no encoder was given")
    return encode(text, truncated)
