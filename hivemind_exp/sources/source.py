"""The one shape of whoever completes prompts: this machine, an API, peers, a server of this node's weights.

A new source is a module beside this one, with a class of this shape and a ``build``, and a line in ``registry``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hivemind_exp.config import Config
from hivemind_exp.journal.records import StageRun, TrainingRow
from hivemind_exp.offload.process.client import OffloadClient
from hivemind_exp.peers.exchange import PeerExchange
from hivemind_exp.rollouts.types import Group, Kind, Prompt
from hivemind_exp.stop import StopFlag

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Ask:
    """What one source is to complete of one stage."""

    stage_run: StageRun
    places: range = range(0)
    """The places that the schedule gives it in every group."""
    empty: tuple[tuple[Prompt, tuple[int, ...]], ...] = ()
    """Each prompt with those of its places that are neither filled nor given up; prompts without any are left out."""
    deadline: float | None = None
    """What is not begun by then (``time.monotonic``) is left, but for the first. None: it takes the time it takes."""


class Source:
    """Completes prompts. Called from the trainer's thread alone."""

    name: str
    """Who it is. Rollouts say who made them, which may be one of many: a provider, a peer."""
    kind: Kind
    """What may be learned from it."""
    floor: float | None = None
    """Mean log-probability a token below which rows of what was collected last are left out, where the kind's loss has
    a likelihood filter. None: none are."""

    def request(self, ask: Ask) -> None:
        """Begin with what ``collect`` will be asked for; return at once."""

    def collect(self, ask: Ask) -> Iterable[Sequence[Group]]:
        """Complete what was asked, or wait for it, and yield it batch by batch; nothing where nothing came.

        Whoever asks journals each batch before it takes the next, so that a killed node loses one at most. A source
        that writes to the journal itself yields none of that. Raises ``StopRequested`` and ``NodeError``.
        """
        raise NotImplementedError

    def weights_moved(self, version: int) -> None:
        """Take note that the node's weights are those after ``version`` optimizer steps: at the start, after each."""

    def learned_from(self, rows: Sequence[TrainingRow]) -> None:
        """Take note that a step has learned from these rows of the source's kind. Replays are not told again."""

    def close(self) -> None:
        """Let go of what it holds."""


@dataclass(frozen=True, slots=True)
class NodeParts:
    """What sources are built from. None: the node has no such part."""

    config: Config
    stop: StopFlag
    model: PreTrainedModel | None = None
    """The node's own model, whose weights the trainer moves."""
    tokenizer: PreTrainedTokenizerBase | None = None
    offload: OffloadClient | None = None
    exchange: PeerExchange | None = None
