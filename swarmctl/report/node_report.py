"""Everything that a report says about one node, as JSON with fixed keys."""

import sqlite3
from contextlib import suppress
from typing import Any

from hivemind_exp.errors import SwarmError
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.tasks.base import FULL_CREDIT
from swarmctl.nodes.status import state_of
from swarmctl.report.accuracy import accuracy, cost_per_point
from swarmctl.report.configuration import configuration
from swarmctl.report.samples import samples
from swarmctl.report.spending import money, spent_on
from swarmctl.report.timeline import EVALUATE, SAVE, SETUP, Timeline
from swarmctl.rollouts.journal import reading
from swarmctl.rollouts.stats import CountKey, counted
from swarmctl.storage.json_file import read_json
from swarmctl.swarm.member import member
from swarmctl.swarm.peers import by_contribution, known_peers
from swarmctl.terminal.progress import PARTS
from swarmctl.terminal.safe_text import without_keys

TIME_PARTS = (SETUP, *PARTS, EVALUATE, SAVE)
"""What a node's time is spent on."""
_STATE = (
    *("node", "state", "phase", "model", "round", "rounds", "swarm", "peers", "groups_from_peers", "since", "updated"),
    *("usd_total", "usd_reserved", "usd_cap", "error", "curriculum"),
)
_REWARDS = (
    "SELECT kind, stage, COUNT(*) AS completions, COUNT(outcome) AS verified, "
    "CAST(TOTAL(outcome >= ?1) AS INTEGER) AS correct, "
    "TOTAL(outcome >= ?1) / NULLIF(COUNT(outcome), 0) AS share_correct, "
    "AVG(outcome) AS reward, COALESCE(SUM(truncated), 0) AS truncated FROM completions "
    "WHERE stage NOT IN ('judge', 'score', 'hint') GROUP BY kind, stage ORDER BY kind, stage"
)
_LEARNED = (
    "SELECT kind, SUM(completions) AS completions, SUM(tokens) AS tokens FROM lessons GROUP BY kind ORDER BY kind"
)
_MOST_PEERS = 50


class NodeReport:
    """Reads one node, again and again if it is still training."""

    def __init__(self, files: NodeFiles) -> None:
        self.files = files
        self._timeline = Timeline(files)

    def read(self, most_samples: int) -> dict[str, Any]:
        """Return the node's data. Unknown values are None. Raises ``NodeError``."""
        files, timeline = self.files, self._timeline
        timeline.read()
        start = timeline.start or {}
        found = state_of(files)
        measured, settings = accuracy(files), configuration(files)
        counts = without_keys(counted(files, CountKey._fields)) if files.journal.is_file() else None
        cap = next((row["value"] for row in settings["settings"] if row["key"] == "offload.limits.usd"), None)
        spent = money(files, cap)
        return {
            **{name: found[name] for name in _STATE},
            "swarm_name": self._swarm_name(),
            "created": (read_json(files.identity) or {}).get("created"),
            "tasks": start.get("tasks")
            or [task.get("name") for task in (read_json(files.identity) or {}).get("tasks") or []],
            "device": start.get("device"),
            "accelerator": start.get("accelerator"),
            "processes": start.get("processes"),
            "parameters": start.get("parameters"),
            "trainable": start.get("trainable"),
            "accuracy": measured,
            "cost_per_point": self._cost_per_point(measured["gain"]),
            "rewards": self._table(_REWARDS, FULL_CREDIT),
            "reward_terms": [
                {"kind": kind, "term": term, "mean": mean.value} for (kind, term), mean in timeline.terms.items()
            ],
            "learned": self._table(_LEARNED),
            "rollouts": counts,
            "series": timeline.series(),
            "log_begins_at_round": timeline.first_round,
            "time": self._time(),
            "money": spent,
            "known_peers": by_contribution(known_peers(files))[:_MOST_PEERS],
            "peers_over_time": [{"time": time, "peers": number} for time, number in timeline.peers],
            "problems": list(reversed(timeline.problems.values())),
            "samples": samples(files, most_samples),
            "configuration": settings,
        }

    def _time(self) -> dict[str, Any] | None:
        """Return the seconds spent on each part in all runs that the log has; None without a log."""
        seconds = self._timeline.seconds
        if not seconds:
            return None
        parts = {part: round(seconds.get(part, 0.0), 3) for part in TIME_PARTS}
        return {"seconds": parts, "total": round(sum(parts.values()), 3), "rounds": self._timeline.rounds_timed}

    def _cost_per_point(self, gained: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return what a point of accuracy cost, from the first evaluation to the latest."""
        if gained is None:
            return None
        begin, end = (self._timeline.trained.get(gained[name]) for name in ("from_round", "to_round"))
        seconds = None if begin is None or end is None else end - begin
        return cost_per_point(gained, seconds, spent_on(self.files, gained["to_round"]))

    def _table(self, query: str, *values: float) -> list[dict[str, Any]]:
        """Return the rows of a query of the journal, with its names; none if the journal is older than the table."""
        if not self.files.journal.is_file():
            return []
        with reading(self.files.journal) as journal, suppress(sqlite3.OperationalError):
            cursor = journal.execute(query, values)
            names = [name for name, *_ in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]
        return []

    def _swarm_name(self) -> str | None:
        with suppress(SwarmError):
            if self.files.charter.exists():
                return member(self.files.root.name, "show").charter.name
        return None
