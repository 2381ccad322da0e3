"""The base class of the stages of ``study-group``, and what they share to build their prompts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from hivemind_exp.game.prompt_style import ChatBuilder
from hivemind_exp.game.sampling.game import verified
from hivemind_exp.game.study_group.prompts import LONGEST_QUOTATION, voice
from hivemind_exp.game.study_group.shown_outputs import ShownOutputs
from hivemind_exp.journal.journal import Journal
from hivemind_exp.rollouts.types import Group, Message, Prompt
from hivemind_exp.tasks.base import Question, Score, Tasks

QUOTED = (LONGEST_QUOTATION, 600, 300, 150, 80)
"""Characters quoted of each text: at most the first of these numbers for which the prompt fits. Only quotations are
cut, never the question or the instructions."""
ALONE = "alone"
"""Peer id of a node without a swarm."""

Encode = Callable[[Sequence[Message]], Sequence[int]]
"""Returns the token ids of a chat, ready for the model's turn."""


@dataclass(frozen=True, slots=True)
class Player:
    """The node that plays, and its role."""

    peer: str = ALONE
    """The node's peer id."""
    role: str = "none"
    seed: int = 0
    """Seeds the draw of a role for each question."""

    def voice(self, question: Question) -> str:
        """Return the start of the prompts about this question."""
        return voice(self.role, seed=self.seed, question=question.digest)


@dataclass(frozen=True, slots=True)
class Stage(ABC):
    """One stage. Builds at most one prompt per question, and scores the completions."""

    name: ClassVar[str]
    verifies: ClassVar[bool] = True
    """Whether its completions end with an answer to the question."""
    quotes: ClassVar[int] = 0
    """How many texts its prompt quotes of each node that it shows. Only the estimate of the cost uses it."""

    player: Player
    encode: Encode
    longest: int
    """Maximum number of tokens in a prompt."""
    tasks: Tasks
    journal: Journal
    shown_outputs: ShownOutputs
    """The outputs of earlier stages, from this node and its peers."""
    chats: ChatBuilder
    """Asks the question itself. The later stages have tags of their own, which every node needs."""

    @abstractmethod
    def prompts(self, round_: int, questions: Sequence[Question]) -> list[Prompt]:
        """Return the stage's prompts. Skips questions with nothing to show."""

    @abstractmethod
    def scores(self, group: Group) -> list[Score]:
        """Return each completion's score. If ``verifies``, the group already has the task verifier's scores."""

    def score(self, groups: Sequence[Group]) -> list[Group]:
        """Return the groups with their scores."""
        judged = verified(self.tasks, groups) if self.verifies else groups
        return [replace(group, scores=tuple(self.scores(group))) for group in judged]

    def prompt(self, question: Question, chat: tuple[Message, ...]) -> Prompt:
        """Return a chat as this stage's prompt."""
        return Prompt(question, self.name, chat, tuple(self.encode(chat)))

    def fitted(self, question: Question, chat: Callable[[int], tuple[Message, ...]], notes: dict[str, Any]) -> Prompt:
        """Return the prompt with the longest quotations that fits. If none fits, return the shortest prompt.

        ``chat`` builds a chat that quotes at most the given number of characters of each text.
        """
        for most in QUOTED:
            prompt = replace(self.prompt(question, chat(most)), notes=notes)
            if len(prompt.ids) <= self.longest:
                break
        return prompt
