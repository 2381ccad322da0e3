"""The errors that a node's user sees: each has a cause and a command that helps.

Every error has a stable ``code``, a ``message`` that names the cause and, optionally, ``next``: a command that can be
pasted unchanged. Only ``swarmctl.errors`` turns errors into exit codes and text.
"""

import math
from typing import ClassVar


class NodeError(Exception):
    """An error that the operator can understand and act on."""

    code: ClassVar[str] = "failed"

    def __init__(self, message: str, *, next: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.next = next

    def __init_subclass__(cls, code: str | None = None) -> None:
        """Set the class's ``code``; if unset, keep the one in the class body or inherit the parent's."""
        cls.code = code or cls.code
        _KINDS.setdefault(cls.code, cls)


_KINDS = {NodeError.code: NodeError}
"""Error classes by code. If several classes share a code, the first one is kept. It is defined in this module; the
others belong to the command line."""


class ConfigurationError(NodeError, code="configuration"):
    """A profile, option or environment variable asks for something that is not possible."""


class NodeConflict(NodeError, code="node_conflict"):
    """The node directory belongs to another model or swarm, or is in use."""


class ModelError(NodeError, code="model"):
    """The model cannot be loaded: missing, gated on the hub, unreachable or not a causal language model."""


class TaskError(NodeError, code="task"):
    """A task does not exist or its data cannot be used."""


class WorkerFailed(NodeError, code="worker"):
    """The processes that make questions or verify answers fail again and again. The same command may work later."""


class HubUnreachable(ModelError, TaskError, code="hub_unreachable"):
    """The hub did not answer a request for a model or a task's data. The same command may work later."""


class DeviceError(NodeError, code="device"):
    """The accelerator cannot be used, or the requested device does not exist on this machine."""


class KeyProblem(NodeError, code="key"):
    """An API key is missing, cannot be read or saved, or belongs to another host."""


class IdentityProblem(NodeError, code="identity"):
    """The node's identity key is missing, damaged, readable by others, or used by another running node."""


class SwarmError(NodeError, code="swarm"):
    """An invitation or a charter cannot be used."""


class SwarmSkew(SwarmError, code="swarm_skew"):
    """This machine generates different questions than the charter specifies."""


class LimitReached(NodeError, code="limit"):
    """A cap, either the operator's or the built-in one, allows no more requests."""

    def __init__(self, message: str, *, next: str | None = None, until: float = math.inf) -> None:
        """``until``: when the cap lifts automatically, in Unix seconds."""
        super().__init__(message, next=next)
        self.until = until


class ProviderError(NodeError, code="provider"):
    """A provider cannot be used, and no fallback is allowed."""


class OutOfMemory(NodeError, code="out_of_memory"):
    """The host or the accelerator ran out of memory."""


class DiskFull(NodeError, code="disk_full"):
    """A file could not be written because the disk is full."""


class Hung(NodeError, code="hung"):
    """The trainer showed no sign of life for too long."""


class ProcessEnded(NodeError, code="process"):
    """A process that trains the node together with the main one ended. The same command may work later."""


class GaveUp(NodeError, code="gave_up"):
    """The trainer fails again and again, so it is not restarted again."""


class FileProblem(NodeError, code="file"):
    """A file of the node is damaged."""


class NewerFormat(FileProblem):
    """A file was written by a newer version."""


class CheckpointError(NodeError, code="checkpoint"):
    """No checkpoint can be loaded."""


def from_code(code: object, message: str, next: str | None) -> NodeError:
    """Return the error that another process reported as ``code``; for an unknown code, a plain ``NodeError``."""
    return _KINDS.get(str(code), NodeError)(message, next=next)
