"""The verdicts of evaluations, kept so that two models can be compared later, question by question."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hivemind_exp.formats import check_number
from swarmctl.paths import evals_directory
from swarmctl.storage.json_file import now, read_json, write_json
from swarmctl.trained.evaluated import Evaluated

_FILE = "verdicts.json"
_FORMAT = 1
_MOST_READ = 2_000
"""Evaluations that are looked at, the latest."""


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What one evaluation found."""

    model: str
    """Its name, for people."""
    node: str | None
    """The node that trained the model."""
    created: str | None
    """When that node was created: another node may have had the name before."""
    round: int | None
    """Rounds trained; 0 before training, None if no node trained the model."""
    asked: Any
    """Whose questions were asked, and how answers were generated. Equal for models that can be compared."""
    time: str
    """RFC 3339, UTC."""
    shares: dict[str, float]
    """Each question's share of correct answers, from 0 to 1, by digest."""


def write_verdicts(
    directory: Path, about: dict[str, Any], model: Evaluated, counts: Sequence[tuple[str, str, int, int]]
) -> None:
    """Save the verdicts of an evaluation. ``counts``: as of ``Measured.counts``. Raises OSError."""
    at = model.model.checkpoint
    write_json(
        directory / _FILE,
        {
            "schema": _FORMAT,
            "model": model.name,
            "node": model.node,
            "created": model.identity.get("created"),
            "round": None if model.node is None else 0 if at is None else at.round,
            "asked": {"questions": about["questions"], "generation": about["generation"]},
            "time": now(),
            "shares": {digest: correct / answers for _, digest, answers, correct in counts},
        },
    )


def kept_verdicts() -> list[Verdicts]:
    """Return the verdicts of the evaluations on this machine, the latest last. Damaged files are left out.

    Raises FileProblem if a newer version wrote one.
    """
    found = []
    paths = sorted(evals_directory().glob(f"*/{_FILE}"), key=lambda path: path.stat().st_mtime)
    for path in paths[-_MOST_READ:]:
        record = read_json(path) or {}
        check_number(path, record.get("schema"))
        try:
            shares = {str(digest): min(1.0, max(0.0, float(share))) for digest, share in record["shares"].items()}
            fields = {name: record[name] for name in ("model", "node", "created", "round", "asked")}
            found.append(Verdicts(**fields, time=str(record["time"]), shares=shares))
        except (KeyError, TypeError, ValueError, AttributeError):
            continue
    return found
