"""Conversations of the node's own model with an environment: turn by turn, until the environment ends them.

All conversations of a batch take their turns together. A conversation is one rollout: its token ids are those that the
model saw and sampled, one after the other.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hivemind_exp.models.chat_turns import continuation
from hivemind_exp.rollouts.types import MODEL, Prompt, Rollout, Turn
from hivemind_exp.seeds import derive_seed
from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.base import Heard, ModelTurn, Score, Talk, Tasks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRIES = 3
"""Times that a conversation begins before it is given up, because its state was lost."""
LOST = "the environment's state was lost"

Complete = Callable[[Sequence[Prompt], Sequence[int], int | None], Sequence[Rollout]]
"""Returns the model's next turn for each prompt: at most so many tokens, sampled with a seed (None: greedy)."""


@dataclass(eq=False)
class _Conversation:
    """A conversation so far."""

    prompt: Prompt
    seed: int
    number: int
    """Its number in the batch."""
    attempt: int = 0
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    chat: list[Mapping[str, str]] = field(default_factory=list)
    """The messages that the template shows."""
    ids: list[int] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    said: list[ModelTurn] = field(default_factory=list)
    cut: bool = False
    score: Score | None = None

    def __post_init__(self) -> None:
        self.chat = list(self.prompt.messages)

    def next(self) -> Prompt:
        """Return the prompt of the model's next turn."""
        return replace(self.prompt, ids=(*self.prompt.ids, *self.ids))

    def take(self, turn: Rollout) -> None:
        """Add the model's turn."""
        self.ids += turn.ids
        self.turns.append(Turn(MODEL, turn.text, len(turn.ids)))
        self.said.append(ModelTurn(turn.text))
        self.cut = turn.truncated

    def talk(self) -> Talk:
        """Return what the environment needs for its reply."""
        seed = derive_seed(self.seed, "environment", self.number, self.attempt)
        return Talk(self.name, seed, tuple(self.said), self.cut)

    def hear(self, messages: Sequence[Mapping[str, str]], ids: Sequence[int]) -> None:
        """Add the environment's reply. ``ids``: empty if the model does not see it."""
        self.ids += ids
        for place, message in enumerate(messages):
            seen = len(ids) if place == len(messages) - 1 else 0
            self.turns.append(Turn(message["role"], message["content"], seen))
        if ids and not messages:  # the environment lets the model go on
            self.turns.append(Turn("user", "", len(ids)))

    def rollout(self, source: str) -> Rollout:
        text = "\n\n".join(map(written, self.turns))
        return Rollout(Kind.POLICY, source, text, tuple(self.ids), self.cut, turns=tuple(self.turns), score=self.score)


def written(turn: Turn) -> str:
    """Return a turn as text."""
    return turn.text if turn.sampled else f"[{turn.role}] {turn.text}"


@dataclass(frozen=True, slots=True)
class Conversations:
    """Plays conversations with environments."""

    tokenizer: PreTrainedTokenizerBase
    tasks: Tasks
    complete: Complete
    source: str
    most: int
    """Maximum tokens of a conversation after its first messages."""

    def play(
        self, prompts: Sequence[Prompt], *, seed: int | None, hear: Callable[[str], None] | None = None
    ) -> list[Rollout]:
        """Return a conversation for each prompt. The same seed, weights and replies give the same conversations.

        ``hear`` gets what the environment says. A conversation whose state is lost begins again; after ``TRIES``, its
        score is not ``judged``. Raises ``ModelError`` if the chat template changes earlier turns.
        """
        talks = [_Conversation(prompt, seed or 0, number) for number, prompt in enumerate(prompts)]
        turn = 0
        while active := [place for place, talk in enumerate(talks) if talk.score is None]:
            now = None if seed is None else derive_seed(seed, "turn", turn)
            asked = [talks[place].next() for place in active]
            rooms = [self.most - len(talks[place].ids) for place in active]
            for place, made in zip(active, self.complete(asked, rooms, now), strict=True):
                talks[place].take(made)
            for place, reply in self._replies(talks, active):
                talks[place] = self._heard(talks[place], reply, hear)
            # The environment waits for a turn for which there is no room.
            full = [place for place in active if talks[place].cut and talks[place].score is None]
            for place, reply in self._replies(talks, full):
                talks[place] = self._ended(talks[place], reply)
            turn += 1
        return [talk.rollout(self.source) for talk in talks]

    def _replies(self, talks: Sequence[_Conversation], places: Sequence[int]) -> Iterable[tuple[int, Heard]]:
        """Return the environments' replies to the latest turns of some conversations."""
        if not places:
            return ()
        some = [talks[place] for place in places]
        replies = self.tasks.reply([each.prompt.question for each in some], [each.talk() for each in some])
        return zip(places, replies, strict=True)

    def _heard(self, talk: _Conversation, reply: Heard, hear: Callable[[str], None] | None) -> _Conversation:
        """Return a conversation after a reply to the model's latest turn."""
        if reply.lost:
            return _begun_again(talk)
        ids: Sequence[int] = ()
        talk.score = reply.score
        if reply.score is None:
            said = talk.said[-1]
            ids = continuation(self.tokenizer, talk.chat, said.text, reply.messages)
            talk.chat += [{"role": MODEL, "content": said.text}, *reply.messages]
            talk.said[-1] = replace(said, heard=reply.messages)
            if len(talk.ids) + len(ids) >= self.most:
                talk.cut, ids = True, ()
        talk.hear(reply.messages, ids)
        if hear is not None and reply.messages:
            hear("".join(f"\n\n{written(turn)}\n\n" for turn in talk.turns[-len(reply.messages) :]))
        return talk

    def _ended(self, talk: _Conversation, reply: Heard) -> _Conversation:
        """Return a conversation that ended for lack of room."""
        if reply.lost:
            return _begun_again(talk)
        talk.score = reply.score
        return talk


def _begun_again(talk: _Conversation) -> _Conversation:
    """Return a conversation from its beginning; after too many attempts, as given up."""
    if talk.attempt + 1 < TRIES:
        return _Conversation(talk.prompt, talk.seed, talk.number, talk.attempt + 1)
    talk.score = Score(0.0, False, LOST, judged=False)
    return talk
