"""Conversations with an environment, in the worker that holds their state.

A worker that does not know a conversation, because another one held it and died, plays its turns again. If the
environment then replies otherwise than the model heard, the conversation is lost and must begin again.
"""

import random
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from hivemind_exp.bounded import BoundedDict
from hivemind_exp.tasks.base import EnvironmentReply, Talk

MOST = 1024
"""Conversations that a worker remembers. More than a node has at a time."""


class EnvironmentSide(Protocol):
    """One conversation with an environment."""

    def said(self, text: str, last: bool) -> EnvironmentReply:
        """Return the environment's reply to a turn of the model. ``last``: the model gets no further turn."""

    def end(self) -> EnvironmentReply:
        """Return the verdict on a conversation in which the model gets no further turn."""


class HeldConversations:
    """The conversations of one task."""

    def __init__(self, begin: Callable[[Mapping[str, Any]], EnvironmentSide]) -> None:
        """``begin`` returns a new conversation about a question's entry."""
        self._begin = begin
        self._known: BoundedDict[str, tuple[EnvironmentSide, int]] = BoundedDict(MOST)
        """By name, with the number of turns so far."""

    def reply(self, talk: Talk, entry: Mapping[str, Any]) -> EnvironmentReply:
        """Return the reply to the latest turn, or the verdict if that was heard but is the ``last``."""
        conversation, done = self._known.pop(talk.name, (None, 0))
        if conversation is not None and talk.last and done == len(talk.turns):
            return conversation.end()
        *earlier, latest = talk.turns
        if conversation is None or done != len(earlier):
            seed_chance(talk.seed, 0)
            conversation = self._begin(entry)
            for number, turn in enumerate(earlier):
                seed_chance(talk.seed, number + 1)
                replied = conversation.said(turn.text, False)
                if replied.verdict is not None or replied.messages != turn.heard:
                    return EnvironmentReply(lost=True)
        seed_chance(talk.seed, len(talk.turns))
        replied = conversation.said(latest.text, talk.last)
        if replied.verdict is None:
            self._known[talk.name] = conversation, len(talk.turns)
        return replied


def seed_chance(seed: int, turn: int) -> None:
    """Seed the generators that an environment may use, so that the same turns get the same replies."""
    random.seed(f"{seed} {turn}")
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(random.getrandbits(32))
