"""Two models on the same held-out questions: what training, an API or a swarm brought.

The verdicts come from ``swarmctl eval``: each node has held-out questions of its own, so only an evaluation asks two
models the same ones.
"""

import shlex
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from hivemind_exp.node_files import NodeFiles
from swarmctl.report.accuracy import paired
from swarmctl.storage.json_file import read_json
from swarmctl.trained.statistics import compare
from swarmctl.trained.verdicts import Verdicts, kept_verdicts

_FEWEST = 2
"""Questions that both models must have answered."""


def comparisons(nodes: Sequence[NodeFiles]) -> list[dict[str, Any]]:
    """Return the latest comparison of each node with itself before training, and of each pair of nodes.

    A pair that no evaluation has compared has ``difference`` None and, as ``next``, the command that compares it.
    """
    verdicts = kept_verdicts()
    found = []
    for files in nodes:
        own = _of(files, verdicts)
        trained, before = [each for each in own if each.round], [each for each in own if each.round == 0]
        name = shlex.quote(files.root.name)
        command = f"swarmctl eval {name} --against base"
        found.append(_compared(files.root.name, None, trained, before, command))
    for first, second in combinations(nodes, 2):
        theirs, ours = ([each for each in _of(files, verdicts) if each.round] for files in (first, second))
        command = shlex.join(["swarmctl", "eval", second.root.name, "--against", first.root.name])
        found.append(_compared(second.root.name, first.root.name, ours, theirs, command))
    return found


def _of(files: NodeFiles, verdicts: Sequence[Verdicts]) -> list[Verdicts]:
    created = (read_json(files.identity) or {}).get("created")
    return [each for each in verdicts if (each.node, each.created) == (files.root.name, created)]


def _compared(
    node: str, against: str | None, ours: Sequence[Verdicts], theirs: Sequence[Verdicts], command: str
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "node": node,
        "against": against,
        "rounds": None,
        "questions_of": None,
        "questions": 0,
        "accuracy": None,
        "accuracy_against": None,
        "difference": None,
        "better": None,
        "worse": None,
        "equal": None,
        "p": None,
        "time": None,
        "next": command,
    }
    latest = _latest_pair(ours, theirs)
    if latest is None:
        return row
    mine, other, shared = latest
    first, second = ([side.shares[digest] for digest in shared] for side in (mine, other))
    asked = (mine.asked.get("questions") or {}).get("node") if isinstance(mine.asked, dict) else None
    return row | {
        "rounds": [mine.round, other.round],
        "questions_of": asked,
        "questions": len(shared),
        "accuracy": round(sum(first) / len(first), 6),
        "accuracy_against": round(sum(second) / len(second), 6),
        "difference": paired([a - b for a, b in zip(first, second, strict=True)]),
        **compare(first, second).as_json(),
        "time": max(mine.time, other.time),
    }


def _latest_pair(ours: Sequence[Verdicts], theirs: Sequence[Verdicts]) -> tuple[Verdicts, Verdicts, list[str]] | None:
    """Return the latest evaluations that asked both models the same questions, with their digests."""
    pairs = []
    for mine in ours:
        for other in theirs:
            shared = [digest for digest in mine.shares if digest in other.shares]
            if mine.asked == other.asked and len(shared) >= _FEWEST:
                pairs.append((min(mine.time, other.time), max(mine.time, other.time), mine, other, shared))
    return max(pairs, key=lambda pair: pair[:2])[2:] if pairs else None
