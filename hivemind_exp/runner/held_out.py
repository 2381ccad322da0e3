"""Notice that a node's held-out questions are no longer those of its earlier evaluations."""

from contextlib import closing
from pathlib import Path

from hivemind_exp.events import Emit, WarningEvent
from hivemind_exp.journal.canary_log import KEY_LETTERS, CanaryLog
from hivemind_exp.journal.journal import Journal
from hivemind_exp.tasks.base import Tasks


def check_held_out(tasks: Tasks, count: int, journal: Journal, path: Path, emit: Emit) -> None:
    """Warn if most of the ``count`` held-out questions were not in the latest evaluation. ``path``: the journal's file.

    They depend on the node's secret. If that file has changed, the node may have trained on some of them.
    """
    known: set[str] = set()
    for evaluation in journal.evaluations()[-1:]:
        with closing(CanaryLog(path)) as log:
            known = set(log.answers(evaluation.round))
    now = {each.digest[:KEY_LETTERS] for each in tasks.questions("heldout", 0, count)} if known else set()
    if 2 * len(known & now) < min(len(known), len(now)):
        message = (
            "the held-out questions are not those of this node's earlier evaluations, because its file named secret "
            "has changed. Accuracy cannot be compared with that of earlier rounds, and the node may have trained on "
            "some of these questions. If you have the earlier file, put it back"
        )
        emit(WarningEvent(code="new_secret", message=message))
