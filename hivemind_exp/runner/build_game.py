"""Builds the game that the configuration names, and its timetable."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from hivemind_exp.config import Config
from hivemind_exp.game.base import Game, Schedule, SequentialSchedule
from hivemind_exp.game.sampling.game import SamplingGame, encode
from hivemind_exp.game.study_group.exhibits import NoPeers, PeerOutputs
from hivemind_exp.game.study_group.game import StudyGroup
from hivemind_exp.game.study_group.slot_schedule import SlotClock, SlotSchedule
from hivemind_exp.game.study_group.stages.base import ALONE, Player
from hivemind_exp.journal.journal import Journal
from hivemind_exp.tasks.base import Tasks


@dataclass(frozen=True, slots=True)
class PeerContext:
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
    peer_context: PeerContext | None = None,
) -> tuple[Game, Schedule]:
    """Return the game and when its stages are played. ``sampling`` has its own pace, in a swarm too."""
    if config.game.kind == "sampling":
        return SamplingGame(tokenizer, tasks), SequentialSchedule(SamplingGame.stages)
    with_whom = peer_context or PeerContext()
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
        return game, SequentialSchedule(StudyGroup.stages)
    return game, SlotSchedule(with_whom.clock, StudyGroup.stages, journal.chunks, with_whom.now)
