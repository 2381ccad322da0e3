"""A few rollouts that show what a node learns from: one right and one wrong of each source, from the latest rounds."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from hivemind_exp.foreign_text import foreign, visible
from hivemind_exp.node_files import NodeFiles
from swarmctl.rollouts.journal import RolloutFilter, RolloutRecord, provider_name, rollouts
from swarmctl.rollouts.strictness import format_of
from swarmctl.storage.json_file import rfc3339
from swarmctl.terminal.safe_text import masked

MOST_CHARACTERS = 1_600
"""Of a longer text, the beginning and the end are shown."""
_TAIL = 400
_MARGIN = 256
"""Characters beyond a cut that are searched for keys, so that no part of one remains."""
_MOST_MESSAGES = 12
_LOOK_AT = 400
"""Rollouts, the latest, from which the samples are chosen."""


def samples(files: NodeFiles, most: int) -> list[dict[str, Any]]:
    """Return at most ``most`` of a node's latest rollouts: of each source a correct, a partly correct and a wrong one.

    Keys in texts are hidden, control characters visible, and long texts are cut. Raises ``NodeError``.
    """
    if not files.journal.is_file() or not most:
        return []
    chosen: dict[tuple[Any, ...], RolloutRecord] = {}
    for rollout in rollouts(files, RolloutFilter(last=_LOOK_AT)):
        if rollout.outcome is not None:
            verdict = "right" if rollout.correct else "wrong" if rollout.outcome == 0 else "partly"
            key = (rollout.stage, str(rollout.kind), verdict)
            chosen.pop(key, None)
            chosen[key] = rollout  # the latest
    order = ("right", "partly", "wrong")
    found = sorted(
        chosen.items(), key=lambda item: (item[0][0], item[0][1] != "policy", item[0][1], order.index(item[0][2]))
    )
    return [_row(rollout) for _, rollout in _spread(found, most)]


def _spread(found: list[tuple[tuple[Any, ...], RolloutRecord]], most: int) -> Iterable[tuple[Any, RolloutRecord]]:
    """Return at most ``most``; if there are more, first one of each source, then the second of each."""
    if len(found) <= most:
        return found
    ranks: dict[tuple[Any, ...], int] = {}
    ranked = []
    for place, item in enumerate(found):
        source = item[0][:2]
        ranks[source] = ranks.get(source, -1) + 1
        ranked.append((ranks[source], place, item))
    kept = sorted(sorted(ranked)[:most], key=lambda each: each[1])
    return [item for _, _, item in kept]


def _row(rollout: RolloutRecord) -> dict[str, Any]:
    terms = rollout.terms or ()
    return {
        "round": rollout.round,
        "stage": rollout.stage,
        "task": None if rollout.task is None else _name(rollout.task).strip('"'),
        "question": rollout.question[:12],
        "kind": rollout.kind,
        "provider": masked(provider_name(rollout.provider)),
        "model": rollout.model and _name(rollout.model),
        "messages": [_message(message) for message in (rollout.messages or ())[:_MOST_MESSAGES]],
        "hint": rollout.hint and shortened(rollout.hint.text),
        "text": shortened(rollout.text or ""),
        "truncated": rollout.truncated,
        "outcome": rollout.outcome,
        "correct": rollout.correct,
        "strict": rollout.strict,
        "format": format_of(rollout),
        "why": rollout.why and visible(masked(rollout.why))[:300],
        "terms": [_term(asdict(term)) for term in terms] or None,
        "usd": rollout.usd,
        "time": None if rollout.time is None else rfc3339(rollout.time),
    }


def _name(text: str) -> str:
    return foreign(masked(text[:_MARGIN]), 60)


def _message(message: Mapping[str, str]) -> dict[str, Any]:
    return {"role": _name(str(message.get("role"))), "content": shortened(str(message.get("content")))}


def _term(term: dict[str, Any]) -> dict[str, Any]:
    why = term["why"]
    return term | {"name": _name(term["name"]).strip('"'), "why": why and visible(masked(why[:600]))[:300]}


def shortened(text: str) -> dict[str, Any]:
    """Return the beginning and the end of a text that others wrote, and how many characters are left out between.

    Every character that is not printable is an escape; only line breaks and tabs stay. Keys are hidden.
    """
    if len(text) <= MOST_CHARACTERS:
        return {"begin": _safe(text), "omitted": 0, "end": ""}
    head = MOST_CHARACTERS - _TAIL
    begin = masked(text[: head + _MARGIN])[:head]
    end = masked(text[-_TAIL - _MARGIN :])[-_TAIL:]
    return {"begin": _safe(begin), "omitted": len(text) - head - _TAIL, "end": _safe(end)}


def _safe(text: str) -> str:
    return "\n".join("\t".join(map(visible, line.split("\t"))) for line in masked(text).split("\n"))
