"""``peers``: whole groups that other nodes shared and this node verified (``hivemind_exp.peers``)."""

from collections.abc import Sequence
from dataclasses import dataclass

from hivemind_exp.journal.records import TrainingRow
from hivemind_exp.peers.exchange import PeerExchange
from hivemind_exp.rollouts.types import Group
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.source import Ask, NodeParts, Source


@dataclass(eq=False)
class PeersSource(Source):
    """Draws verified groups, for questions that the peers chose, after the node has shared its own of that stage."""

    name = "peers"
    kind = Kind.PEER
    adds_groups = True

    _exchange: PeerExchange

    def collect(self, ask: Ask) -> list[Sequence[Group]]:
        """Return the groups drawn for a stage. A restart gives the same groups, because the draw is in the journal."""
        drawn = self._exchange.draw(ask.stage_run.round, ask.stage_run.stage)
        self.floor = drawn.floor
        return [drawn.groups]

    def learned_from(self, rows: Sequence[TrainingRow]) -> None:
        """Credit the peers that shared these rows' groups."""
        self._exchange.sampler.learned_from(rows)


def build(parts: NodeParts) -> PeersSource | None:
    """Return the source of peers' groups; None for a node without a swarm."""
    return None if parts.exchange is None else PeersSource(parts.exchange)
