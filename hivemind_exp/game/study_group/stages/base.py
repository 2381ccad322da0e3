"""What a stage of ``study-group`` is, and what all of them build their prompts with."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from hivemind_exp.game.sampling.game import verified
from hivemind_exp.game.study_group.exhibits import Exhibits
from hivemind_exp.game.study_group.prompts import LONGEST_QUOTATION, voice
from hivemind_exp.journal.journal import Journal
from hivemind_exp.rollouts.types import Group, Message, Prompt
from hivemind_exp.tasks.base import Question, Score, Tasks

QUOTED = (LONGEST_QUOTATION, 600, 300, 150, 80)
"""Characters that are quoted of each text: as many as a prompt has room for. What is cut is what others wrote, never
the question or the instructions."""
ALONE = "alone"
"""The peer id of a node without a swarm."""

Encode = Callable[[Sequence[Message]], Sequence[int]]
"""Returns the token ids of a chat, after which the model writes its turn."""


@dataclass(frozen=True, slots=True)
class Player:
    """Who plays, and how it speaks."""

    peer: str = ALONE
    """The node's own peer id."""
    role: str = "none"
    seed: int = 0
    """Of the role that is drawn for each question."""

    def voice(self, question: Question) -> str:
        """Return what a prompt about this question begins with."""
        return voice(self.role, seed=self.seed, question=question.digest)


@dataclass(frozen=True, slots=True)
class Stage(ABC):
    """One stage. It asks at most one prompt a question, and scores the completions."""

    name: ClassVar[str]
    verifies: ClassVar[bool] = True
    """Whether its completions end in an answer to the question."""

    player: Player
    encode: Encode
    longest: int
    """Tokens of the longest prompt."""
    tasks: Tasks
    journal: Journal
    exhibits: Exhibits
    """What came of the stages before, here and at peers."""

    @abstractmethod
    def prompts(self, round_: int, questions: Sequence[Question]) -> list[Prompt]:
        """Return what the stage asks; a question that has nothing to show is left out."""

    @abstractmethod
    def scores(self, group: Group) -> list[Score]:
        """Return the score of each completion, whose final answers the task's verifier has judged if ``verifies``."""

    def score(self, groups: Sequence[Group]) -> list[Group]:
        """Return the groups with their scores."""
        judged = verified(self.tasks, groups) if self.verifies else groups
        return [replace(group, scores=tuple(self.scores(group))) for group in judged]

    def prompt(self, question: Question, chat: tuple[Message, ...]) -> Prompt:
        """Return a chat as this stage's prompt."""
        return Prompt(question, self.name, chat, tuple(self.encode(chat)))

    def fitted(self, question: Question, chat: Callable[[int], tuple[Message, ...]], notes: dict[str, Any]) -> Prompt:
        """Return the prompt that quotes most, of those that are short enough; else the shortest.

        ``chat`` returns the chat that quotes so many characters of each text.
        """
        for most in QUOTED:
            prompt = replace(self.prompt(question, chat(most)), notes=notes)
            if len(prompt.ids) <= self.longest:
                break
        return prompt
