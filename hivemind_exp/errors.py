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

    def __init_subclass__(cls, code: str | None = None) -> None:
        """``code``: of the class; unset, that of the class above it, or what the class says itself."""
        cls.code = code or cls.code
        _KINDS.setdefault(cls.code, cls)


_KINDS = {NodeError.code: NodeError}
"""Of several kinds with one code it is the first, which is defined here: others are the command line's own."""


class ConfigurationError(NodeError, code="configuration"):
    """A profile, flag or environment variable says something that cannot be done."""


class NodeConflict(NodeError, code="node_conflict"):
    """The node directory belongs to another model or swarm, or is in use."""


class ModelError(NodeError, code="model"):
    """The model cannot be loaded: absent, gated, unreachable or not a causal language model."""


class TaskError(NodeError, code="task"):
    """A task does not exist, or its data cannot be used."""


class HubUnreachable(ModelError, TaskError, code="hub_unreachable"):
    """The hub did not answer, for a model or a task's data; the same command may work later."""


class DeviceError(NodeError, code="device"):
    """The machine has an accelerator that cannot be used, or lacks the one asked for."""


class KeyProblem(NodeError, code="key"):
    """A key is missing, cannot be read or kept, or belongs to another host."""


class IdentityProblem(NodeError, code="identity"):
    """A node's own key is missing, damaged or open to others, or another live node has it."""


class SwarmError(NodeError, code="swarm"):
    """An invitation or a charter cannot be used."""


class SwarmSkew(SwarmError, code="swarm_skew"):
    """This machine makes other questions than the swarm agreed on."""


class LimitReached(NodeError, code="limit"):
    """A cap that the operator set, or the one that always exists, allows no further request."""

    def __init__(self, message: str, *, next: str | None = None, until: float = math.inf) -> None:
        """``until``: Unix seconds at which the cap lifts by itself."""
        super().__init__(message, next=next)
        self.until = until


class ProviderError(NodeError, code="provider"):
    """A provider cannot be used, and nothing may stand in for it."""


class OutOfMemory(NodeError, code="out_of_memory"):
    """The host or the accelerator ran out of memory."""


class DiskFull(NodeError, code="disk_full"):
    """A file could not be written for want of space."""


class CheckpointError(NodeError, code="checkpoint"):
    """No checkpoint can be loaded."""


def from_code(code: object, message: str, next: str | None) -> NodeError:
    """Return the error that another process reported as ``code``; an unknown code is a plain failure."""
    return _KINDS.get(str(code), NodeError)(message, next=next)
