"""From errors to exit codes and to what is printed. The hierarchy itself is in ``hivemind_exp.errors``."""

import sys
from enum import IntEnum

from hivemind_exp.errors import NodeError
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.json_output import print_json


class Exit(IntEnum):
    """Exit codes, the same for every command."""

    DONE = 0
    """Done, or asked to stop (SIGTERM, SIGHUP, ``stop``)."""
    FAILED = 1
    """It could have worked: out of memory, disk full, hub unreachable, a defect."""
    USAGE = 2
    """The command line cannot be understood."""
    CONFIGURATION = 3
    """Something written must change first: configuration, key, or the node belongs to something else."""
    CHECK_FAILED = 4
    LIMIT = 5
    """The node's own limit was reached."""
    INTERRUPTED = 130


_TO_CHANGE = ("configuration", "node_conflict", "model", "task", "device", "identity", "swarm", "swarm_skew")
_PROVIDER_TO_CHANGE = ("provider", "key", "keyring_absent", "keyring_locked", "keyring_silent")
_EXIT_OF_CODE = {
    **dict.fromkeys((*_TO_CHANGE, *_PROVIDER_TO_CHANGE), Exit.CONFIGURATION),
    "usage": Exit.USAGE,
    "key_refused": Exit.CHECK_FAILED,
    "limit": Exit.LIMIT,
}


class UsageError(NodeError):
    """The command line cannot be understood."""

    code = "usage"


def exit_code(error: NodeError) -> Exit:
    """Return the exit code of ``error``: what the operator must change is 3, what may work next time is 1."""
    return _EXIT_OF_CODE.get(error.code, Exit.FAILED)


def print_error(error: NodeError, *, as_json: bool) -> None:
    """Say what went wrong and what to type next: as an object on stdout, or as text on stderr."""
    following = typed(error.next) if error.next else None
    if as_json:
        print_json(error={"code": error.code, "message": error.message, "next": following})
        return
    # Imported here: most command lines end without an error.
    from swarmctl.terminal.views import Writer

    write = Writer(sys.stderr)
    write(f"error: {error.message}")
    if following:
        write(f"  try: {following}")
