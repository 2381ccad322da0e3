"""What can go wrong in a node, as one hierarchy.

Every error carries a stable ``code``, a ``message`` that names the cause and ``next``, a command that can be pasted
as it stands. ``swarmctl.errors`` is the one place that turns them into an exit code and text.
"""

import math
from typing import ClassVar


class NodeError(Exception):
    """Something the operator can understand and act on."""

    code: ClassVar[str] = "failed"

    def __init__(self, message: str, *, next: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.next = next


class ConfigurationError(NodeError):
    """A profile, flag or environment variable says something that cannot be done."""

    code = "configuration"


class NodeConflict(NodeError):
    """The node directory belongs to another model or swarm, or is in use."""

    code = "node_conflict"


class ModelError(NodeError):
    """The model cannot be loaded: absent, gated, unreachable or not a causal language model."""

    code = "model"


class TaskError(NodeError):
    """A task does not exist, or its data cannot be used."""

    code = "task"


class HubUnreachable(ModelError, TaskError):
    """The hub did not answer, for a model or a task's data; the same command may work later."""

    code = "hub_unreachable"


class DeviceError(NodeError):
    """The machine has an accelerator that cannot be used, or lacks the one asked for."""

    code = "device"


class KeyProblem(NodeError):
    """A key is missing, cannot be read or kept, or belongs to another host."""

    code = "key"


class IdentityProblem(NodeError):
    """A node's own key is missing, damaged or open to others, or another live node has it."""

    code = "identity"


class SwarmError(NodeError):
    """An invitation or a charter cannot be used."""

    code = "swarm"


class SwarmSkew(SwarmError):
    """This machine makes other questions than the swarm agreed on."""

    code = "swarm_skew"


class LimitReached(NodeError):
    """A cap that the operator set, or the one that always exists, allows no further request."""

    code = "limit"

    def __init__(self, message: str, *, next: str | None = None, until: float = math.inf) -> None:
        """``until``: Unix seconds at which the cap lifts by itself."""
        super().__init__(message, next=next)
        self.until = until


class ProviderError(NodeError):
    """A provider cannot be used, and nothing may stand in for it."""

    code = "provider"


class OutOfMemory(NodeError):
    """The host or the accelerator ran out of memory."""

    code = "out_of_memory"


class DiskFull(NodeError):
    """A file could not be written for want of space."""

    code = "disk_full"


class CheckpointError(NodeError):
    """No checkpoint can be loaded."""

    code = "checkpoint"


def _all_kinds(kind: type[NodeError]) -> list[type[NodeError]]:
    return [kind, *(below for child in kind.__subclasses__() for below in _all_kinds(child))]


def from_code(code: object, message: str, next: str | None) -> NodeError:
    """Return the error that another process reported as ``code``; an unknown code is a plain failure."""
    # Of several kinds with one code it is the first, which is defined here: others are the command line's own.
    kinds = {kind.code: kind for kind in reversed(_all_kinds(NodeError))}
    return kinds.get(str(code), NodeError)(message, next=next)
