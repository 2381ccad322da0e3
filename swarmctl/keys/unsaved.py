"""How a command that saves several keys reports those that it could not save."""

from collections.abc import Sequence

from hivemind_exp.errors import NodeError
from hivemind_exp.foreign_text import foreign
from swarmctl.terminal.prompter import Cancelled


def not_saved(where: str, error: NodeError) -> str:
    """Return the line for the key at ``where``, a variable or a setting. An answer "no" needs no reason."""
    return f"Not saved: {foreign(where)}" + ("" if isinstance(error, Cancelled) else f": {error.message}")


def final_error(failed: Sequence[NodeError], keys: int) -> NodeError:
    """Return the error that ends the command: the first one, with its exit code and command.

    If there were several ``keys``, ``not_saved`` has given each one's reason, so the message only counts them.
    """
    first = failed[0]
    if keys > 1:
        first.message = f"{len(failed)} of {keys} keys {'was' if len(failed) == 1 else 'were'} not saved"
        if isinstance(first, Cancelled):  # printed as a sentence
            first.message += "."
    return first
