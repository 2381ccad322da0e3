"""The interface of sources that complete prompts: this machine, an API, peers, or a server of this node's weights.

To add a source, follow "Add a source" in ARCHITECTURE.md: a module in this package with a subclass of ``Source`` and a
``build`` function, a line in ``registry``, and its value of ``offload.kind`` in ``hivemind_exp.source_kinds``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hivemind_exp.config import Config
from hivemind_exp.events import Emit, discard
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import StageRun, TrainingRow
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.process.client import OffloadClient
from hivemind_exp.parallel.team import Team
from hivemind_exp.peers.exchange import PeerExchange
from hivemind_exp.rollouts.types import Group, Prompt
from hivemind_exp.source_kinds import Kind
from hivemind_exp.stop import StopFlag
from hivemind_exp.tasks.base import Tasks

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WholeWeights = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Ask:
    """What one source should complete in one stage."""

    stage_run: StageRun
    places: range = range(0)
    """The slots that the schedule assigns to the source in every group."""
    empty: tuple[tuple[Prompt, tuple[int, ...]], ...] = ()
    """Each prompt with those of its slots that are neither filled nor given up. Prompts without any are left out."""
    deadline: float | None = None
    """After this time (``time.monotonic``), no batch is started, except the first. None: no deadline."""
    refill: int = 0
    """If the stage's own questions have been completed and these are further ones: the first one's number."""


class Source:
    """Completes prompts. Called only from the trainer's thread."""

    name: str
    """The source's name. A rollout's ``source`` can be more specific, such as a provider or a peer."""
    kind: Kind
    """What may be learned from the source."""
    floor: float | None = None
    """Minimum mean log-probability per token. Rows collected last that are below it are filtered out, if the kind's
    loss has a likelihood filter. None: no row is."""
    adds_groups: bool = False
    """Whether it yields whole groups, with scores, that each step learns from in addition to the node's own. It is then
    asked for them once per stage, with an empty ``Ask``, after the node has shared its own groups with its swarm."""

    def request(self, ask: Ask) -> None:
        """Start work on what ``collect`` will return; return immediately."""

    def collect(self, ask: Ask) -> Iterable[Sequence[Group]]:
        """Complete the prompts in ``ask``, or wait for their completions, and yield them batch by batch.

        The caller writes each batch to the journal before it takes the next, so that a killed node loses at most one. A
        source does not yield what it writes to the journal itself. Raises ``StopRequested`` and ``NodeError``.
        """
        raise NotImplementedError

    def rows(self, round_: int, groups: Sequence[Group], rows: Sequence[TrainingRow]) -> Sequence[TrainingRow]:  # noqa: ARG002 - for sources that add rows
        """Return what a round's step learns from, given the ``rows`` that were made of its ``groups``."""
        return rows

    def weights_moved(self, version: int) -> None:
        """Called at the start and after each step. The weights are now those after ``version`` optimizer steps."""

    def set_aside(self, provider: str, why: str, command: str) -> None:
        """Stop using a provider in this run, because its cost is wasted. ``command``: to suggest."""

    def learned_from(self, rows: Sequence[TrainingRow]) -> None:
        """Called after a step with the rows of the source's kind that it learned from. Not called for replays."""

    def close(self) -> None:
        """Release the source's resources."""


@dataclass(frozen=True, slots=True)
class NodeParts:
    """The parts that sources are built from. None: the node has no such part."""

    config: Config
    stop: StopFlag
    model: PreTrainedModel | None = None
    """The node's own model. The trainer updates its weights."""
    tokenizer: PreTrainedTokenizerBase | None = None
    offload: OffloadClient | None = None
    exchange: PeerExchange | None = None
    journal: Journal | None = None
    tasks: Tasks | None = None
    files: NodeFiles | None = None
    emit: Emit = discard
    dtype: str = "float32"
    """The number format of the model's computation."""
    team: Team | None = None
    """The other processes that generate with this one."""
    whole: WholeWeights = nullcontext
    """Gives the model its weights inside a block, if it has them only for a while."""
