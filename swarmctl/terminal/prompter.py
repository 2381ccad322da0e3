"""Prompts on the terminal, if someone can answer."""

import sys
from collections.abc import Callable, Sequence
from typing import TextIO

import typer

from hivemind_exp.errors import KeyProblem, NodeError
from swarmctl.terminal.line_editor import read_line
from swarmctl.terminal.safe_text import clean, encodable, looks_like_key
from swarmctl.terminal.short_answer import read_short_answer
from swarmctl.terminal.views import Writer

_LONGEST = 65536
_SECRET_LENGTH = 16
"""An answer without spaces that is as long as this may be a secret."""
_TYPE_HIDDEN = "Type a key only at a hidden prompt"
ON_SCREEN = "It is on the screen, so replace it if anyone else can see the screen"
"""What to do about a key that was typed where it can be seen."""


def sentence(text: str) -> str:
    """Return an error's message as a sentence. A file's name at its beginning keeps its case."""
    begin = text[:1].upper() + text[1:] if text.partition(" ")[0].isalpha() else text
    return begin if text.endswith((".", "?", "!")) else f"{begin}."


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether the stream is a terminal. Python sets a stream to None if it was closed before Python started."""
    return stream is not None and not stream.closed and stream.isatty()


class Cancelled(NodeError):
    """The user answered no, so there is nothing to fix: the message is printed as it is."""

    code = "cancelled"


class Prompter:
    """Prompts on the terminal, if there is one and prompting is allowed."""

    def __init__(self, *, yes: bool = False, silent: bool = False) -> None:
        self._yes = yes
        self._answers: dict[str, bool] = {}
        self.is_typed = _is_terminal(sys.stdin)
        """Whether a secret would be typed, and so should be typed twice."""
        self.source = "in the typed input" if self.is_typed else "on standard input"
        """Where a secret comes from, as a phrase for error messages."""
        self.can_ask = not silent and self.is_typed and _is_terminal(sys.stderr)
        self.say = Writer(sys.stderr)

    def confirm(self, question: str, otherwise: NodeError, unchanged: str = "Nothing was changed.") -> None:
        """Return if the answer is yes.

        Raises ``Cancelled`` if it is no, with ``unchanged``, a sentence on what was not done; ``otherwise`` if
        prompting is impossible.
        """
        if not self._yes:
            self.ask_outright(question, otherwise, unchanged)

    def ask_outright(self, question: str, otherwise: NodeError, unchanged: str, *, once: bool = False) -> None:
        """Like ``confirm``, but ``--yes`` does not answer this question.

        After a yes, it is not asked again; nor after a no, if it is asked ``once``.
        """
        agreed = self._answers.get(question)
        if agreed is None:
            if not self.can_ask:
                raise otherwise
            agreed = bool(self._yes_or_no(question, default=False))
            if agreed or once:
                self._answers[question] = agreed
        if not agreed:
            raise Cancelled(f"Cancelled. {unchanged}")

    def agrees(self, question: str, *, default: bool) -> bool:
        """Return the answer to a question. Enter means ``default``; anything but yes or no is asked again.

        Raises Abort at the end of the input.
        """
        agreed = self._yes_or_no(question, default=default)
        if agreed is None:
            raise typer.Abort
        return agreed

    def _yes_or_no(self, question: str, *, default: bool) -> bool | None:
        """Ask until the answer is yes or no, and return it; None at the end of the input."""
        shown = self.say.folded(f"{question} {'[Y/n]' if default else '[y/N]'}")
        while True:
            answer = read_short_answer(encodable(shown, sys.stderr.encoding) + " ", sys.stdin, sys.stderr)
            if answer is None:  # Ctrl-D, which leaves the cursor behind the question
                sys.stderr.write("\n")
                return None
            if (word := answer.text.lower()) in ("", "y", "yes", "n", "no"):
                return word in ("y", "yes") or (default and not word)
            may_be_key = looks_like_key(answer.text) or (len(word) >= _SECRET_LENGTH and len(word.split()) == 1)
            where = f". {ON_SCREEN}" if answer.on_screen else ", so it was not shown"
            self.say(f"That may be a key{where}. {_TYPE_HIDDEN}. Answer y or n." if may_be_key else "Answer y or n.")

    def answer(
        self, question: str, check: Callable[[str], object], *, default: str = "", words: Sequence[str] = ()
    ) -> str:
        """Ask until ``check`` raises no NodeError for the answer, and return it. Enter means ``default``.

        Tab completes ``words``. Raises Abort at the end of the input.
        """
        shown = f"{question} [{clean(default)}]:" if default else f"{question}:"
        while True:
            line = read_line(encodable(self.say.folded(shown), sys.stderr.encoding) + " ", words)
            if line is None:
                sys.stderr.write("\n")
                raise typer.Abort
            text = line.strip() or default
            try:
                if text != default or not default:
                    check(text)
            except NodeError as error:
                self.say(sentence(error.message))
            else:
                return text

    def secret(self, prompt: str, silent: NodeError | None = None) -> str:
        """Return a secret from a hidden prompt, or from stdin if that is not a terminal.

        Raises Abort at the end of input on a terminal, and ``silent`` if stdin is a terminal but prompting is not
        allowed.
        """
        if sys.stdin is None:
            return ""
        if not self.is_typed:
            return sys.stdin.read(_LONGEST)
        if not self.can_ask:
            raise silent or KeyProblem(
                "cannot prompt for a key with --no-input; pipe it in instead", next="swarmctl keys --help"
            )
        import getpass

        try:
            return getpass.getpass(self.say.folded(prompt) + " ", stream=sys.stderr)
        except (EOFError, KeyboardInterrupt) as error:
            sys.stderr.write("\n")  # no typed character, not even Enter, has ended the prompt's line
            raise typer.Abort from error
