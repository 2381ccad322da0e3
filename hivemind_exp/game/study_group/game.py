"""``study-group`` as the loop plays it: answer, critique, resolve; the later stages show what came of those before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from hivemind_exp.game.sampling.game import verified
from hivemind_exp.game.study_group.exhibits import Exhibits, outcomes, students_of
from hivemind_exp.game.study_group.merging import PeerOutputs
from hivemind_exp.game.study_group.prompts import (
    ANSWER,
    CRITIQUE,
    RESOLVE,
    STAGES,
    Student,
    answer_messages,
    critique_messages,
    resolve_messages,
)
from hivemind_exp.game.study_group.quoting import LONGEST_QUOTATION
from hivemind_exp.game.study_group.rewards import score_answer, score_critique, score_resolve
from hivemind_exp.game.study_group.roles import Role, voice
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import StageRun
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
    role: Role = "none"
    seed: int = 0
    """Of the role that is drawn for each question."""


class StudyGroup:
    """Implements ``Game``."""

    stages = STAGES

    def __init__(
        self,
        player: Player,
        *,
        encode: Encode,
        longest: int,
        group_size: int,
        tasks: Tasks,
        journal: Journal,
        peers: PeerOutputs,
    ) -> None:
        """``longest``: tokens of the longest prompt; ``peers``: what others published of each stage."""
        self._player = player
        self._encode = encode
        self._longest = longest
        self._tasks = tasks
        self._journal = journal
        self._gathering = Exhibits(player.peer, range(group_size), tasks=tasks, journal=journal, peers=peers)

    def prompts(self, stage_run: StageRun, questions: Sequence[Question]) -> list[Prompt]:
        """Return what the turn asks. In a later stage a question is left out that has no own answer to show."""
        if stage_run.stage == ANSWER:
            return [self._prompt(each, ANSWER, answer_messages(each, self._voice(each))) for each in questions]
        asked = [self._journal.prompt(stage_run.round, question, stage_run.stage) for question in questions]
        if any(asked):  # as it was asked then: peers may have said more since
            return [replace(prompt, ids=tuple(self._encode(prompt.messages))) for prompt in asked if prompt is not None]
        if stage_run.stage == CRITIQUE:
            students = self._gathering.students(stage_run.round, questions)
            return [self._critique(each, students[each.digest]) for each in questions if students[each.digest]]
        return self._resolves(stage_run.round, questions)

    def score(self, groups: Sequence[Group]) -> list[Group]:
        """Return groups of one stage with their scores."""
        critiques = any(group.prompt.stage == CRITIQUE for group in groups)
        judged = groups if critiques else verified(self._tasks, groups)
        return [replace(group, scores=tuple(_scores(group))) for group in judged]

    def _critique(self, question: Question, students: Sequence[Student]) -> Prompt:
        spoken = self._voice(question)
        return self._fitted(
            question,
            CRITIQUE,
            lambda most: critique_messages(question, spoken, students, most),
            {"students": [asdict(student) for student in students]},
        )

    def _resolves(self, round_: int, questions: Sequence[Question]) -> list[Prompt]:
        """Show the students that the critique stage showed; where it was missed, those of now."""
        before = {each.digest: self._journal.prompt(round_, each, CRITIQUE) for each in questions}
        new = self._gathering.students(round_, [each for each in questions if before[each.digest] is None])
        prompts = []
        for question in questions:
            shown = before[question.digest]
            students = new[question.digest] if shown is None else students_of(shown.notes)
            if students:
                prompts.append(self._resolve(round_, question, students))
        return prompts

    def _resolve(self, round_: int, question: Question, students: Sequence[Student]) -> Prompt:
        critics, majority = self._gathering.critics(round_, question, {each.number: each.outcome for each in students})
        spoken = self._voice(question)
        return self._fitted(
            question,
            RESOLVE,
            lambda most: resolve_messages(question, spoken, students, critics, most),
            {
                "students": [asdict(student) for student in students],
                "critics": [{"peer": critic.peer, "place": critic.place} for critic in critics],
                "majority": list(majority),
            },
        )

    def _fitted(
        self, question: Question, stage: str, chat: Callable[[int], tuple[Message, ...]], notes: dict[str, Any]
    ) -> Prompt:
        """Return the prompt that quotes most, of those that are short enough; else the shortest."""
        for most in QUOTED:
            prompt = replace(self._prompt(question, stage, chat(most)), notes=notes)
            if len(prompt.ids) <= self._longest:
                break
        return prompt

    def _prompt(self, question: Question, stage: str, chat: tuple[Message, ...]) -> Prompt:
        return Prompt(question, stage, chat, tuple(self._encode(chat)))

    def _voice(self, question: Question) -> str:
        return voice(self._player.role, seed=self._player.seed, question=question.digest)


def _scores(group: Group) -> list[Score]:
    question, stage, notes = group.prompt.question, group.prompt.stage, group.prompt.notes
    texts = [rollout.text for rollout in group.rollouts]
    if stage == CRITIQUE:
        return [score_critique(text, outcomes(notes)) for text in texts]
    pairs = list(zip(texts, group.scores, strict=True))
    if stage == ANSWER:
        return [score_answer(question, text, score) for text, score in pairs]
    return [score_resolve(question, text, score, outcomes(notes), notes["majority"]) for text, score in pairs]
