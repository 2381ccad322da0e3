"""A node's accuracy on held-out questions, with intervals, and what a point of it cost."""

import json
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hivemind_exp.intervals import wilson
from hivemind_exp.node_files import NodeFiles
from swarmctl.rollouts.journal import reading

_Z = 1.96
_QUERY = "SELECT round, accuracy, questions, by_task FROM evaluations ORDER BY round"


def accuracy(files: NodeFiles) -> dict[str, Any]:
    """Return a node's evaluations, and the gain from the first to the latest. Raises ``NodeError``.

    Shares are from 0 to 1, with intervals of 95 %. The gain is None with fewer than two evaluations.
    """
    found = []
    if files.journal.is_file():
        with reading(files.journal) as journal:
            found = [_evaluation(*row) for row in journal.execute(_QUERY)]
    return {"evaluations": found, "gain": gain(found)}


def _evaluation(round_: int, share: float, questions: int, by_task: str | None) -> dict[str, Any]:
    low, high = wilson(share, questions) if questions else (0.0, 1.0)
    tasks: dict[str, float] = {}
    with suppress(ValueError, TypeError, AttributeError):
        tasks = {str(task): float(value) for task, value in json.loads(by_task or "{}").items()}
    row = {"round": round_, "accuracy": share, "low": round(low, 6), "high": round(high, 6), "questions": questions}
    return row | {"by_task": tasks}


def gain(evaluations: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the difference of the latest and the first accuracy, with an interval of 95 %.

    The interval treats the two as independent. They are answers to the same questions, so it is rather too wide
    (Newcombe 1998, method 10: from the two score intervals).
    """
    if len(evaluations) < 2 or not evaluations[0]["questions"] or not evaluations[-1]["questions"]:
        return None
    first, last = evaluations[0], evaluations[-1]
    value = last["accuracy"] - first["accuracy"]
    low = value - math.hypot(last["accuracy"] - last["low"], first["high"] - first["accuracy"])
    high = value + math.hypot(last["high"] - last["accuracy"], first["accuracy"] - first["low"])
    return {
        "value": round(value, 6),
        "low": round(low, 6),
        "high": round(high, 6),
        "from_round": first["round"],
        "to_round": last["round"],
        "significant": low > 0 or high < 0,
    }


def cost_per_point(gained: dict[str, Any] | None, seconds: float | None, usd: float | None) -> dict[str, Any] | None:
    """Return what one percentage point of accuracy cost, in seconds of this machine and in USD.

    None unless the accuracy rose by more than chance explains. ``low`` and ``high`` follow from the gain's interval.
    """
    if gained is None or gained["low"] <= 0:
        return None
    points = {key: 100 * gained[key] for key in ("value", "low", "high")}

    def per(amount: float | None) -> dict[str, float] | None:
        if amount is None:
            return None
        return {
            "value": amount / points["value"],
            "low": amount / points["high"],
            "high": amount / points["low"],
        }

    return {"points": round(points["value"], 4), "seconds": per(seconds), "usd": per(usd)}


def paired(differences: Sequence[float]) -> dict[str, float]:
    """Return the mean of differences per question, each in [-1, 1], with an interval of 95 %.

    For differences of -1, 0 and 1, this is the adjusted Wald interval of Agresti and Min (2005, Statistics in Medicine
    24: 729-740), which adds half a question to each of the four outcomes; it is sound also for few questions.
    """
    number = len(differences) + 2
    mean = sum(differences) / number
    variance = (sum(each * each for each in differences) + 1) / number - mean * mean
    half = _Z * math.sqrt(max(0.0, variance) / number)
    value = sum(differences) / len(differences)
    return {
        "value": round(value, 6),
        "low": round(max(-1.0, min(value, mean - half)), 6),
        "high": round(min(1.0, max(value, mean + half)), 6),
    }
