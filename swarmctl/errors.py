"""How errors become exit codes and output. The hierarchy itself is in ``hivemind_exp.errors``."""

import re
import sys
from enum import IntEnum

from hivemind_exp.errors import NodeError
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.safe_text import HIDDEN, is_hash, masked


class Exit(IntEnum):
    """Exit codes, the same for every command."""

    DONE = 0
    """Done, or stopped on request (SIGTERM, SIGHUP, ``stop``)."""
    FAILED = 1
    """A failure that may be temporary: out of memory, disk full, hub unreachable, a bug."""
    USAGE = 2
    """The command line is invalid."""
    CONFIGURATION = 3
    """The user must change something first: the configuration, a key, or which node or swarm to use."""
    CHECK_FAILED = 4
    LIMIT = 5
    """The node reached a limit in its settings, such as its spending cap."""
    INTERRUPTED = 130
    """Ctrl-C, or the answer to a question was no."""


_TO_CHANGE = (
    "configuration",
    "node_conflict",
    "model",
    "task",
    "device",
    "identity",
    "swarm",
    "swarm_skew",
    "file",
    "checkpoint",
    "gave_up",
)
_PROVIDER_TO_CHANGE = ("provider", "key", "keyring_absent", "keyring_locked", "keyring_silent")
_EXIT_OF_CODE = {
    **dict.fromkeys((*_TO_CHANGE, *_PROVIDER_TO_CHANGE), Exit.CONFIGURATION),
    "usage": Exit.USAGE,
    "key_refused": Exit.CHECK_FAILED,
    "limit": Exit.LIMIT,
    "cancelled": Exit.INTERRUPTED,
}


class UsageError(NodeError):
    """The command line is invalid."""

    code = "usage"


def exit_code(error: NodeError) -> Exit:
    """Return the exit code of ``error``: 3 if the user must change something, 1 if the command may work next time."""
    return _EXIT_OF_CODE.get(error.code, Exit.FAILED)


_WORD = re.compile(r"[^\s'\"`=,;()]+")
_PART = re.compile(r"^|[.:\[\]]")
"""Where a key may begin in a word. Not inside a name: ``disk-experiments-2024`` contains ``sk-`` but no key."""


def without_typed_keys(text: str) -> str:
    """Return ``text`` without words that look like a key, such as a key that was given as a model's name.

    Paths and invitations are kept, because the commands that errors suggest contain them.
    """
    return _WORD.sub(_hidden, text)


def _hidden(word: re.Match[str]) -> str:
    starts = (part.end() for part in _PART.finditer(word[0]))
    found = next((start for start in starts if _is_key(word, start)), None)
    return word[0] if found is None else word[0][:found] + HIDDEN


def _is_key(word: re.Match[str], start: int) -> bool:
    text = word[0][start:]
    return masked(text).startswith(HIDDEN) and not is_hash(word.string, word.start() + start, text.partition("@")[0])


def print_error(error: NodeError, *, as_json: bool) -> None:
    """Print an error and the command to try next: as an object on stdout, or as text on stderr."""
    message = without_typed_keys(error.message)
    following = without_typed_keys(typed(error.next)) if error.next else None
    if as_json:
        print_json(error={"code": error.code, "message": message, "next": following})
        return
    # Imported here: most command lines end without an error.
    from swarmctl.terminal.views import Writer

    write = Writer(sys.stderr)
    write(f"error: {message}")
    if following:
        write(f"  try: {following}")
