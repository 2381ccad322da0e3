"""Opens a node's game: its stages, and the schedule of when it plays them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hivemind_exp.config import Config
from hivemind_exp.game.base import Game, Schedule, SequentialSchedule
from hivemind_exp.game.prompt_style import ChatBuilder
from hivemind_exp.game.sampling.game import SamplingGame
from hivemind_exp.game.study_group.game import StudyGroup
from hivemind_exp.game.study_group.shown_outputs import NoPeers, PeerOutputs
from hivemind_exp.game.study_group.slot_schedule import SlotClock, SlotSchedule
from hivemind_exp.game.study_group.stages.base import ALONE, Player
from hivemind_exp.journal.journal import Journal
from hivemind_exp.models.chat_format import encode
from hivemind_exp.tasks.base import Tasks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class PeerContext:
    """The peers and the clock of a study group. By default the node plays alone, without a clock."""

    me: str = ALONE
    """The node's peer id."""
    peers: PeerOutputs = field(default_factory=NoPeers)
    clock: SlotClock | None = None
    """The charter's time slots."""
    now: Callable[[], float] = time.time


def open_game(
    config: Config,
    *,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Tasks,
    journal: Journal,
    peer_context: PeerContext | None = None,
    chats: ChatBuilder | None = None,
) -> tuple[Game, Schedule]:
    """Return the game and its schedule. ``sampling`` runs without a clock, in a swarm too."""
    if config.game.kind == "sampling":
        return SamplingGame(tokenizer, tasks, chats), SequentialSchedule(SamplingGame.stages)
    with_whom = peer_context or PeerContext()
    game = StudyGroup(
        Player(with_whom.me, config.game.role, config.node.seed),
        encode=lambda chat: encode(chat, tokenizer),
        longest=config.generation.max_prompt_tokens,
        group_size=config.game.group_size,
        tasks=tasks,
        journal=journal,
        peers=with_whom.peers,
        chats=chats,
    )
    if with_whom.clock is None:
        return game, SequentialSchedule(StudyGroup.stages)
    return game, SlotSchedule(with_whom.clock, StudyGroup.stages, journal.chunks, with_whom.now)
