"""Builds the game that the configuration names, and its timetable."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from hivemind_exp.config import Config
from hivemind_exp.game.base import Game, OwnPace, Timetable
from hivemind_exp.game.sampling.game import Sampling
from hivemind_exp.game.sampling.prompts import encode
from hivemind_exp.game.study_group.game import ALONE, Player, StudyGroup
from hivemind_exp.game.study_group.merging import NoPeers, PeerOutputs
from hivemind_exp.game.study_group.timetable import SlotClock, Slots
from hivemind_exp.journal.journal import Journal
from hivemind_exp.tasks.base import Tasks


@dataclass(frozen=True, slots=True)
class Company:
    """With whom a study group is played. Left out: alone, at one's own pace."""

    me: str = ALONE
    """The node's own peer id."""
    peers: PeerOutputs = field(default_factory=NoPeers)
    clock: SlotClock | None = None
    """The charter's slots."""
    now: Callable[[], float] = time.time


def open_game(
    config: Config,
    *,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Tasks,
    journal: Journal,
    company: Company | None = None,
) -> tuple[Game, Timetable]:
    """Return the game and when its stages are played. ``sampling`` has its own pace, in a swarm too."""
    if config.game.kind == "sampling":
        return Sampling(tokenizer, tasks), OwnPace(Sampling.stages)
    with_whom = company or Company()
    game = StudyGroup(
        Player(with_whom.me, config.game.role, config.node.seed),
        encode=lambda chat: encode(chat, tokenizer),
        longest=config.generation.max_prompt_tokens,
        group_size=config.game.group_size,
        tasks=tasks,
        journal=journal,
        peers=with_whom.peers,
    )
    if with_whom.clock is None:
        return game, OwnPace(StudyGroup.stages)
    return game, Slots(with_whom.clock, StudyGroup.stages, journal.parts, with_whom.now)
