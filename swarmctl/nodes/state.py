"""The state of a node, from its lock, its supervisor's notes and its events."""

from enum import StrEnum
from typing import Any

from swarmctl.terminal.progress import CALIBRATING, RunView


class NodeState(StrEnum):
    """What a node is doing, or how it ended."""

    STARTING = "starting"
    """Loads its model, or repeats steps from its journal."""
    WARMING_UP = "warming up"
    """Learns or measures something before its first round."""
    TRAINING = "training"
    WAITING = "waiting"
    """For an API, which generates instead of this machine."""
    OFFLINE = "offline"
    """In a swarm, and no longer in touch with any peer; it trains alone."""
    BACKING_OFF = "backing off"
    """Its trainer failed and will be restarted."""
    ASLEEP = "asleep"
    """The machine slept, and the node has not done anything since."""
    PAUSED = "paused"
    """The disk is full, or a signal has stopped the trainer."""
    DONE = "done"
    """All rounds are finished."""
    LIMIT = "limit reached"
    STOPPED = "stopped"
    """On request."""
    FAILED = "failed"
    DEAD = "dead"
    """Killed, so it could not say how it ended."""
    NEW = "never started"

    @property
    def running(self) -> bool:
        """Whether a node in this state has a living supervisor."""
        return self in _RUNNING


_RUNNING = frozenset(
    {
        NodeState.STARTING,
        NodeState.WARMING_UP,
        NodeState.TRAINING,
        NodeState.WAITING,
        NodeState.OFFLINE,
        NodeState.BACKING_OFF,
        NodeState.ASLEEP,
        NodeState.PAUSED,
    }
)
WORKING = (NodeState.STARTING, NodeState.WARMING_UP, NodeState.TRAINING, NodeState.WAITING)
"""States in which the phase, if there is one, says more."""
_ENDS = {"done": NodeState.DONE, "signal": NodeState.STOPPED, "limit": NodeState.LIMIT}
_BEFORE = ("generating demonstrations", "warming up", CALIBRATING, "sampling answers for the warm start")
"""Phases in which a node learns or measures something before its first round."""
_WAITING = "waiting for"
"""How the names of phases begin in which a node waits for an API."""


def running_state(holder: dict[str, Any], progress: RunView, *, paused: bool, in_swarm: bool) -> NodeState:
    """Return the state of a node whose lock is held.

    ``holder``: as ``node_lock.holder`` returns it; ``paused``: whether a signal has stopped the trainer.
    """
    doing = (holder.get("doing") or {}).get("state")
    phase = str((progress.phase or {}).get("name") or "")
    # Its trainer, if it still lives, notices and stops within seconds.
    orphaned = holder.get("pid") is None and not holder.get("elsewhere")
    found = (
        (NodeState.DEAD, orphaned),
        (NodeState.BACKING_OFF, doing == NodeState.BACKING_OFF),
        (NodeState.ASLEEP, doing == NodeState.ASLEEP),
        (NodeState.PAUSED, paused or doing == NodeState.PAUSED),
        (NodeState.WAITING, None in progress.down.values() or phase.startswith(_WAITING)),
        (NodeState.WARMING_UP, phase.startswith(_BEFORE)),
        (NodeState.STARTING, progress.starting),
        (NodeState.OFFLINE, in_swarm and progress.lost_touch),
    )
    return next((state for state, applies in found if applies), NodeState.TRAINING)


def ended_state(progress: RunView) -> NodeState:
    """Return the state of a node whose lock is free."""
    if progress.stop is not None:
        return _ENDS.get(progress.stop["reason"], NodeState.FAILED)
    if progress.error is not None:
        return NodeState.FAILED
    # A fork has rounds before its first run.
    return NodeState.DEAD if progress.round is not None and progress.start is not None else NodeState.NEW
