"""Questions to whoever sits at the terminal, where somebody does."""

import sys
from typing import TextIO

import typer

from hivemind_exp.errors import KeyProblem, NodeError
from swarmctl.terminal.views import Writer

_LONGEST = 65536


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody sits there. Python has None for a stream that was closed before it started."""
    return stream is not None and not stream.closed and stream.isatty()


class Prompter:
    """Asks on the terminal; knows whether there is one and whether asking is wanted."""

    def __init__(self, *, yes: bool = False, silent: bool = False) -> None:
        self._yes = yes
        self._agreed: set[str] = set()
        self.is_typed = _is_terminal(sys.stdin)
        """Whether a secret is typed, and so worth typing twice."""
        self.source = "in what was typed" if self.is_typed else "on standard input"
        """Where a secret comes from, as an error names it."""
        self.can_ask = not silent and self.is_typed and _is_terminal(sys.stderr)
        self.say = Writer(sys.stderr)

    def confirm(self, question: str, otherwise: NodeError) -> None:
        """Return if the answer is yes. Raises ``otherwise`` on a no, and where nobody can answer."""
        if not self._yes:
            self.ask_outright(question, otherwise)

    def ask_outright(self, question: str, otherwise: NodeError) -> None:
        """As ``confirm``, but ``--yes`` is no answer to this question. A yes is not asked for twice."""
        if question in self._agreed:
            return
        if not self.can_ask:
            raise otherwise
        self.say(question)
        sys.stderr.write("[y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise otherwise
        self._agreed.add(question)

    def secret(self, prompt: str, silent: NodeError | None = None) -> str:
        """Return what is typed, unseen, or what is piped in. Raises Abort at an end of input on a terminal.

        Raises ``silent`` where there is a terminal and nothing may be asked.
        """
        if sys.stdin is None:
            return ""
        if not self.is_typed:
            return sys.stdin.read(_LONGEST)
        if not self.can_ask:
            raise silent or KeyProblem(
                "there is a key to type and --no-input was given: pipe it in", next="swarmctl keys --help"
            )
        import getpass

        try:
            return getpass.getpass(self.say.folded(prompt) + " ", stream=sys.stderr)
        except (EOFError, KeyboardInterrupt) as error:
            sys.stderr.write("\n")  # nothing that was typed, Enter included, has ended the line of the prompt
            raise typer.Abort from error
