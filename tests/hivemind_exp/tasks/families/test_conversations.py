"""A conversation's state lives in a worker. One that does not have it plays the turns again."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from hivemind_exp.tasks.base import EnvironmentReply, ModelTurn, Talk, Verdict
from hivemind_exp.tasks.families.conversations import HeldConversations


class Echo:
    """Repeats what is said, with a random number, and counts its turns."""

    begun = 0

    def __init__(self, entry: Mapping[str, Any]) -> None:
        Echo.begun += 1
        self._most = entry["most"]
        self._said = 0

    def said(self, text: str, last: bool) -> EnvironmentReply:
        self._said += 1
        if last or self._said == self._most:
            return self.end()
        return EnvironmentReply(({"role": "user", "content": f"{text} {random.random()}"},))

    def end(self) -> EnvironmentReply:
        return EnvironmentReply(verdict=Verdict(self._said / self._most))


def talk(*turns: ModelTurn, seed: int = 1, last: bool = False) -> Talk:
    return Talk("a", seed, turns, last)


def test_a_worker_continues_what_it_knows_and_plays_again_what_it_does_not() -> None:
    Echo.begun, entry = 0, {"most": 3}
    first = HeldConversations(Echo)
    heard = first.reply(talk(ModelTurn("x")), entry).messages
    said = ModelTurn("x", heard)
    more = first.reply(talk(said, ModelTurn("y")), entry)
    assert Echo.begun == 1
    other = HeldConversations(Echo)
    assert other.reply(talk(said, ModelTurn("y")), entry) == more
    assert Echo.begun == 2
    assert other.reply(talk(said, ModelTurn("y", more.messages), ModelTurn("z")), entry).verdict == Verdict(1.0)


def test_other_replies_than_the_model_heard_lose_the_conversation() -> None:
    said = ModelTurn("x", ({"role": "user", "content": "what no one said"},))
    assert HeldConversations(Echo).reply(talk(said, ModelTurn("y")), {"most": 3}) == EnvironmentReply(lost=True)
    heard = HeldConversations(Echo).reply(talk(ModelTurn("x")), {"most": 3}).messages
    again = HeldConversations(Echo).reply(talk(ModelTurn("x", heard), ModelTurn("y"), seed=2), {"most": 3})
    assert again == EnvironmentReply(lost=True)
    ended = HeldConversations(Echo).reply(talk(ModelTurn("x", heard), ModelTurn("y")), {"most": 1})
    assert ended == EnvironmentReply(lost=True)


def test_the_last_turn_gets_the_verdict_whether_or_not_its_reply_was_heard() -> None:
    known, entry = HeldConversations(Echo), {"most": 4}
    heard = known.reply(talk(ModelTurn("x")), entry).messages
    full = talk(ModelTurn("x", heard), last=True)
    assert (
        known.reply(full, entry)
        == HeldConversations(Echo).reply(full, entry)
        == EnvironmentReply(verdict=Verdict(0.25))
    )
