"""Which of several copies of a node may use their identity: the one that was restored last, and then started last.

A node's directory can be copied, or restored from a backup on another machine. Each start counts up, each restore from
a backup outranks every start before it, and both numbers are in the node's signed announcements. So two running copies
notice each other, and both know which one has to stop.
"""

import json
import shlex
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hivemind_exp import atomic_write, formats
from hivemind_exp.errors import IdentityProblem


@dataclass(frozen=True, slots=True, order=True)
class Incarnation:
    """One start of an identity. Of two, the smaller one is older and has to stop."""

    restored: int = 0
    """When the identity was last restored from a backup, in milliseconds since 1970; 0: never."""
    started: int = 0
    """When the node was started, in milliseconds since 1970. Increases with each start, whatever the clock says."""


UNCOUNTED = Incarnation()
"""A start that was not counted: older than any that was."""


@dataclass(frozen=True, slots=True)
class IncarnationFile:
    """The file in a node's directory that counts its incarnations. Belongs to one identity."""

    path: Path
    peer_id: str

    def start(self) -> Incarnation:
        """Count a start, and return it.

        Raises:
            IdentityProblem: a newer copy of this identity has run, so this one must not.
            FileProblem: the file is damaged.
            OSError: the file cannot be written.
        """
        last, by = self.read()
        if by is not None:
            raise superseded(self.path.parent.name, by)
        made = Incarnation(last.restored, max(_now(), last.started + 1))
        self._write(made, None)
        return made

    def restore(self) -> Incarnation:
        """Record that the identity has been restored from a backup: it now outranks every other copy.

        Raises FileProblem and OSError.
        """
        last, _ = self.read()
        made = Incarnation(max(_now(), last.restored + 1), last.started)
        self._write(made, None)
        return made

    def supersede(self, by: Incarnation) -> None:
        """Record that a newer copy runs, so that this one does not start again. Raises FileProblem and OSError."""
        last, _ = self.read()
        self._write(last, by)

    def read(self) -> tuple[Incarnation, Incarnation | None]:
        """Return the latest start, and the newer copy that has run since, if one was seen. Raises ``FileProblem``."""
        stored = formats.read_object(self.path)
        if stored is None or stored.get("peer") != self.peer_id:
            return UNCOUNTED, None
        by = stored.get("superseded")
        return _number(stored), None if by is None else _number(by)

    def _write(self, incarnation: Incarnation, by: Incarnation | None) -> None:
        numbers = {"restored": incarnation.restored, "started": incarnation.started}
        other = None if by is None else {"restored": by.restored, "started": by.started}
        body = {"schema": formats.FORMAT, "peer": self.peer_id, **numbers, "superseded": other}
        atomic_write.write(self.path, json.dumps(body) + "\n")


def superseded(node: str, by: Incarnation) -> IdentityProblem:
    """Return the error for a node whose identity a newer copy uses."""
    what, when = ("restored from a backup", by.restored) if by.restored else ("started elsewhere", by.started)
    at = datetime.fromtimestamp(when / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return IdentityProblem(
        f"a copy of node {node} was {what} on {at} and uses this node's identity, so this older one must not run with "
        "it. To run both, give this one a new identity",
        next=f"swarmctl identity new --node {shlex.quote(node)}",
    )


def _now() -> int:
    return int(time.time() * 1000)


def _number(stored: dict[str, object]) -> Incarnation:
    restored, started = stored.get("restored"), stored.get("started")
    return Incarnation(restored if type(restored) is int else 0, started if type(started) is int else 0)
