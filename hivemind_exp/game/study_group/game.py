"""The game ``study-group``: its stages are played in order, and later ones show the outputs of earlier ones."""

from collections.abc import Sequence
from dataclasses import replace

from hivemind_exp.game.prompt_style import ChatBuilder
from hivemind_exp.game.study_group.shown_outputs import PeerOutputs, ShownOutputs
from hivemind_exp.game.study_group.stages.answer import AnswerStage
from hivemind_exp.game.study_group.stages.base import Encode, Player, Stage
from hivemind_exp.game.study_group.stages.critique import CritiqueStage
from hivemind_exp.game.study_group.stages.resolve import ResolveStage
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import StageRun
from hivemind_exp.rollouts.types import Group, Prompt
from hivemind_exp.tasks.base import Question, Tasks

STAGES: tuple[type[Stage], ...] = (AnswerStage, CritiqueStage, ResolveStage)
"""The stages in order. All nodes of a swarm must have the same ones, because they determine the time slots."""


class StudyGroup:
    """Implements ``Game``."""

    stages = tuple(stage.name for stage in STAGES)

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
        chats: ChatBuilder | None = None,
    ) -> None:
        """``longest``: maximum number of tokens in a prompt; ``peers``: the peers' published outputs of each stage."""
        self._encode = encode
        self._journal = journal
        shown_outputs = ShownOutputs(player.peer, range(group_size), tasks=tasks, journal=journal, peers=peers)
        common = (player, encode, longest, tasks, journal, shown_outputs, chats or ChatBuilder())
        self._stages = {stage.name: stage(*common) for stage in STAGES}

    def prompts(self, stage_run: StageRun, questions: Sequence[Question]) -> list[Prompt]:
        """Return a stage's prompts. A later stage skips questions that this node has not answered."""
        if stage_run.stage != self.stages[0]:
            asked = [self._journal.prompt(stage_run.round, question, stage_run.stage) for question in questions]
            if any(asked):  # reuse the journaled prompts: peers may have published more since
                known = [prompt for prompt in asked if prompt is not None]
                return [replace(prompt, ids=tuple(self._encode(prompt.messages))) for prompt in known]
        return self._stages[stage_run.stage].prompts(stage_run.round, questions)

    def score(self, groups: Sequence[Group]) -> list[Group]:
        """Return one stage's groups with their scores."""
        return self._stages[groups[0].prompt.stage].score(groups) if groups else []
