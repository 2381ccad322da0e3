"""``swarmctl tasks try`` with an environment of several turns: someone types the model's turns."""

import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hivemind_exp.foreign_text import foreign
from hivemind_exp.tasks.base import Heard, ModelTurn, Question, Talk
from swarmctl.tasks.opened import OpenedTask
from swarmctl.tasks.scores import verdict, verdict_fields
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.safe_text import quoted
from swarmctl.terminal.streams import width_of
from swarmctl.terminal.views import Writer

_MARK = "    | "


class _Played:
    """A conversation, with the typed turns so far."""

    def __init__(self, task: OpenedTask, question: Question) -> None:
        self._task, self._question = task, question
        self._talk = Talk(secrets.token_hex(8), 0, ())

    def say(self, text: str, *, last: bool = False) -> Heard:
        """Return the environment's reply to a turn. ``last``: no turn follows."""
        turns = (*self._talk.turns, ModelTurn(text))
        (heard,) = self._task.mixture.reply([self._question], [replace(self._talk, turns=turns, last=last)])
        self._talk = replace(self._talk, turns=(*turns[:-1], ModelTurn(text, heard.messages)))
        return heard


def play(task: OpenedTask, question: Question, say: Writer) -> bool:
    """Hold a conversation with someone at the terminal. Return False if they want to stop."""
    _print(question.chat)
    played = _Played(task, question)
    while True:
        text = typed_line("Your turn")
        if not text:
            return False
        heard = played.say(text)
        _print(heard.messages)
        if heard.lost:
            say("The environment lost the conversation.")
            return True
        if heard.score is not None:
            say(verdict(heard.score))
            return True


def typed_line(what: str) -> str:
    """Ask for ``what`` and return the line that is typed; nothing after Enter alone or Ctrl-D, which mean to stop."""
    sys.stderr.write(f"{what} (Enter to stop): ")
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:  # Ctrl-D, which leaves the cursor behind the question
        sys.stderr.write("\n")
    return line.strip()


def play_given(task: OpenedTask, question: Question, answers: Sequence[str], *, as_json: bool) -> None:
    """Hold a conversation in which ``answers`` are the model's turns, one after the other."""
    played, shown = _Played(task, question), list(question.chat)
    heard = Heard()
    for number, answer in enumerate(answers, 1):
        heard = played.say(answer, last=number == len(answers))
        shown += [{"role": "assistant", "content": answer}, *heard.messages]
        if heard.score is not None or heard.lost:
            break
    score = None if heard.score is None else verdict_fields(heard.score)
    if as_json:
        print_json(task=task.title, conversation=shown, score=score)
        return
    _print(shown)
    Writer(sys.stdout)("The environment lost the conversation." if heard.score is None else verdict(heard.score))


def _print(messages: Sequence[Mapping[str, str]]) -> None:
    """Print messages. They are untrusted text."""
    for message in messages:
        print(f"{foreign(message['role'])}:")
        for line in quoted(message["content"], _MARK, width=width_of(sys.stdout), full=True):
            print(line, flush=True)
