"""Builds a node's connection to its swarm from the configuration: identity, charter, DHT node, peers' groups."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hivemind_exp import atomic_write
from hivemind_exp.config import Config
from hivemind_exp.errors import FileProblem, NewerFormat
from hivemind_exp.events import Emit, PhaseEvent, ShareEvent, WarningEvent
from hivemind_exp.formats import read_object
from hivemind_exp.game.prompt_style import ChatBuilder
from hivemind_exp.game.sampling.game import STAGE, build_prompts
from hivemind_exp.game.study_group.slot_schedule import SlotClock
from hivemind_exp.game_settings import STAGE_NAMES
from hivemind_exp.hub.card import base_name
from hivemind_exp.losses.registry import choose_losses
from hivemind_exp.models.chat_format import encode
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.settings import generates
from hivemind_exp.peers.exchange import LogProbabilities, PeerDrawLog, PeerExchange, TrainingStatus, publish
from hivemind_exp.peers.records import FILE_NAME, PeerBook
from hivemind_exp.peers.sampler import PeerSampler
from hivemind_exp.peers.vetting import PeerRules, PeerTexts
from hivemind_exp.rollouts.types import Group
from hivemind_exp.runner.open_game import PeerContext
from hivemind_exp.source_kinds import Kind
from hivemind_exp.stop import StopFlag, StopRequested
from hivemind_exp.swarm.charter import Charter
from hivemind_exp.swarm.charter_check import applied, check_skew, levels_of, read_charter
from hivemind_exp.swarm.contacts import KNOWN
from hivemind_exp.swarm.copies import PLACES
from hivemind_exp.swarm.identity import Identity, claim, shared_claims
from hivemind_exp.swarm.incarnation import Incarnation, IncarnationFile, superseded
from hivemind_exp.swarm.invitation import parse
from hivemind_exp.swarm.node import SwarmNode
from hivemind_exp.tasks.base import Tasks
from hivemind_exp.tasks.mixture import Mixture

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROUNDS_A_SECOND = 100
"""More rounds per second than any node plays. Rounds beyond this rate since the swarm's start lie in the future."""


@dataclass(frozen=True, slots=True)
class SwarmSession:
    """A node's membership in its swarm, while it runs."""

    charter: Charter
    config: Config
    """Includes the charter's tasks and game."""
    node: SwarmNode
    files: NodeFiles
    emit: Emit

    def check(self, tasks: Tasks) -> None:
        """Raise ``SwarmSkew`` if this machine's questions differ from the swarm's."""
        if isinstance(tasks, Mixture):
            digests = {task.label: tasks.digest(task.label) for task in self.charter.tasks}
            check_skew(self.charter, tasks.facts(), digests)

    def latest_round(self) -> int:
        """Return the highest round that any node of the swarm can have reached by now."""
        elapsed = max(0.0, time.time() - self.charter.t0)
        if self.charter.game == "study-group":
            return int(elapsed / (len(STAGE_NAMES) * self.charter.stage_time)) + 1  # clocks may differ by seconds
        return int(elapsed * ROUNDS_A_SECOND)

    @contextmanager
    def exchange(
        self,
        log_probabilities: LogProbabilities,
        tokenizer: PreTrainedTokenizerBase,
        tasks: Tasks,
        chats: ChatBuilder,
    ) -> Iterator[PeerExchange]:
        config = self.config
        sampler = PeerSampler(
            self._rules(),
            tasks=tasks,
            texts=PeerTexts(
                tokenizer,
                lambda question: build_prompts([question], tokenizer, chats)[0],
                longest_prompt=config.generation.max_prompt_tokens,
                style=chats.style,
            ),
            book=PeerBook(self.files.swarm / FILE_NAME),
            latest_round=self.latest_round,
        )
        with closing(PeerDrawLog(self.files.journal, self.charter.id)) as drawn:
            sampler.vetting.remember_used(drawn.used())
            try:
                yield PeerExchange(
                    wire=self.node,
                    sampler=sampler,
                    drawn=drawn,
                    encode=lambda chat: tuple(encode(chat, tokenizer)),
                    log_probabilities=log_probabilities,
                    seed=config.node.seed,
                    emit=self.emit,
                    levels=tasks.levels_at if isinstance(tasks, Mixture) else lambda _: {},
                )
            finally:
                sampler.book.save(now=True)

    def peer_context(self, exchange: PeerExchange) -> PeerContext:
        """Return the peers and the clock of the study group."""
        clock = SlotClock(self.charter.t0, self.charter.stage_time, len(STAGE_NAMES))
        return PeerContext(self.node.peer_id, exchange, clock)

    def publisher(self) -> Callable[[int, Sequence[Group]], None]:
        """Return a function that shares a relay's groups."""
        wire, rules = self.node, self._rules()

        def share(round_: int, groups: Sequence[Group]) -> None:
            wire.take()  # a relay does not use peers' bundles, and they must not pile up
            size, count = publish(rules, wire, round_, STAGE, groups, TrainingStatus(0, None))
            self.emit(ShareEvent(round=round_, groups=count, bytes=size, unused={}))

        return share

    def _rules(self) -> PeerRules:
        config, loss = self.config, choose_losses(self.config.train)[Kind.PEER]
        levels = levels_of(self.charter)
        external = config.game.groups if config.swarm.external is None else config.swarm.external
        return PeerRules(
            swarm=self.charter.id,
            me=self.node.peer_id,
            stage=STAGE,
            group_size=config.game.group_size,
            local=config.game.groups,
            external=external if config.game.kind == "sampling" else 0,
            longest=config.generation.max_completion_tokens,
            open=self.charter.is_open,
            with_logps=loss.needs_logps,
            needs_spread=loss.needs_spread,
            model=base_name(config),
            levels=None if levels is None else {task: len(found) for task, found in levels.items()},
        )


@contextmanager
def open_swarm(config: Config, files: NodeFiles, emit: Emit, stop: StopFlag) -> Iterator[SwarmSession]:
    """Join the node's swarm, and disconnect at the end of the block.

    The charter is read from the node's directory, or fetched from the peers in the invitation. If a newer copy of the
    node's identity is running, ``stop`` is set, and the end of the block raises ``IdentityProblem``.

    Raises:
        SwarmError: the charter is not available, or the daemon cannot be started.
        SwarmSkew: this version cannot play the swarm's game.
        IdentityProblem: another node is running with this node's identity, or a newer copy of the node has run.
    """
    assert config.swarm.charter is not None
    if not files.key.exists():
        Identity.create(files.key)
    identity = Identity.load(files.key)
    with ExitStack() as ends:
        for name, key in ((FILE_NAME, "peers"), (KNOWN, "peers"), (PLACES, "addresses")):
            check_memory(files.swarm / name, emit, key)
        counted = IncarnationFile(files.incarnation, identity.peer_id)
        for directory in filter(None, (files.claims, shared_claims())):
            ends.enter_context(claim(directory, identity.peer_id, config.node.name, counted.read()[0].restored))
        incarnation = counted.start()
        newer: list[Incarnation] = []

        def give_way(by: Incarnation) -> None:
            newer.append(by)
            stop.set()

        charter = read_charter(files, config.swarm.charter)
        node = SwarmNode(
            identity,
            config.swarm.charter,
            key=files.key,
            directory=files.swarm,
            settings=config.swarm,
            invitation=parse(config.swarm.join).addresses,
            emit=emit,
            label=_label(config),
            incarnation=incarnation,
            on_superseded=give_way,
        )
        ends.callback(node.close)
        emit(PhaseEvent(name="joining the swarm"))
        node.start()
        if charter is None:
            envelope = node.fetch_charter()
            charter = Charter.open(envelope, config.swarm.charter)
            atomic_write.write(files.charter, envelope)
        node.charter = files.charter.read_bytes()
        try:
            yield SwarmSession(charter, applied(charter, config), node, files, emit)
        except StopRequested:
            if not newer:
                raise
            counted.supersede(newer[-1])
            raise superseded(config.node.name, newer[-1]) from None


def check_memory(path: Path, emit: Emit, key: str = "peers") -> None:
    """Set a damaged file of the swarm aside, with a warning: the node works without it. ``key``: of the file's object.

    Raises ``NewerFormat``.
    """
    try:
        stored = read_object(path)
        if stored is None or isinstance(stored.get(key), dict):
            return
    except NewerFormat:
        raise
    except FileProblem:
        pass
    aside = path.with_name(f"{path.name}.damaged")
    path.replace(aside)
    emit(WarningEvent(code="file_damaged", message=f"{path} is damaged: renamed it to {aside.name}; it starts empty"))


def _label(config: Config) -> str:
    return f"{config.offload.counts_as} {config.offload.provider}"[:64] if generates(config) else "policy"
