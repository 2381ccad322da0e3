"""``peer`` rollouts: whole groups that other nodes shared, checked here before this node learns from them.

Only a bundle's text is used, and whether the peer itself calls all of it wrong. This node generates the questions again
and recomputes the rewards. It limits the groups drawn per peer, whatever a peer's reputation.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from hivemind_exp.game.sampling.game import said
from hivemind_exp.journal.records import TrainingRow
from hivemind_exp.peers.bundle import FULL, BundlePool, BundleRefused, Offer, unpack
from hivemind_exp.peers.questions import QuestionCache
from hivemind_exp.peers.records import PeerBook, weights
from hivemind_exp.peers.vetting import ALL_WRONG, PeerRules, PeerTexts, RejectedGroup, Vetting
from hivemind_exp.rollouts.types import Group
from hivemind_exp.swarm.transfer.bundle_store import Received
from hivemind_exp.tasks.base import FULL_CREDIT, NamedQuestions, Score, Tasks
from hivemind_exp.tasks.workers.checked_replies import TOO_SLOW

TRIES = 6
"""Groups tried per group wanted. Some are refused."""
MAKING_S = 5.0
"""Seconds that a draw may spend on generating questions. The remaining groups wait for another draw."""
FURTHEST = 64
"""At least this many questions of a round can be generated for peers' groups (``QuestionCache.furthest``)."""
COOLDOWN_DRAWS = 50
"""Draws for which a peer is skipped after one of its answers made the verifier time out or crash."""


@dataclass(eq=False)
class PeerSampler:
    """Draws groups from peers' bundles. Use only from the thread that uses the tasks."""

    rules: PeerRules
    tasks: Tasks
    texts: PeerTexts
    book: PeerBook
    latest_round: Callable[[], int]
    """Returns the highest round that any node can have reached by now. Bundles from later rounds are rejected."""
    pool: BundlePool = field(default_factory=BundlePool)

    def __post_init__(self) -> None:
        named = self.tasks if self.rules.levels is not None and isinstance(self.tasks, NamedQuestions) else None
        self._questions = QuestionCache(self.tasks, max(FURTHEST, 8 * self.rules.local), named)
        self.vetting = Vetting(self.rules, self.texts, self._questions)
        self._cooling_down: dict[str, int] = {}
        self.barred: frozenset[str] = frozenset()
        """Peers that are quarantined."""
        self.refusals: Counter[str] = Counter()
        """Counts of the reasons why groups and bundles were not used, since the last report."""

    def take_in(self, received: Sequence[Received]) -> None:
        """Put bundles into the pool. Never raises, whatever they contain."""
        for each in received:
            if each.peer != self.rules.me:
                with self._counting(each.peer):
                    self._add_to_pool(each)
        self.book.save()

    def learned_from(self, rows: Iterable[TrainingRow]) -> None:
        """Credit peers with the groups that a step has learned from."""
        for peer, _ in {(row.source, row.group) for row in rows}:
            self.book.record(peer).used += 1
        self.book.save()

    def draw(self, *, seed: int, levels: Mapping[str, int] | None = None) -> list[Group]:
        """Return up to J verified groups that teach something and were not drawn before.

        Peers are drawn by reputation. Among peers of equal weight, and among one peer's groups, the draw is even.
        ``levels``: the level of difficulty at which this node is, by task. It has left the easier ones because nearly
        all of its answers there were correct, so groups of these levels are left out.
        """
        self._cooling_down = {peer: left - 1 for peer, left in self._cooling_down.items() if left > 1}
        waiting = [each for each in self._in_order(seed) if not _is_too_easy(each, levels or {})]
        drawn: list[Group] = []
        taken: Counter[str] = Counter()
        tries, until = TRIES * self.rules.wanted, self._questions.seconds + MAKING_S
        while tries > 0 and len(drawn) < self.rules.wanted:
            picked = self._pick(waiting, taken, min(tries, self.rules.wanted - len(drawn)))
            if not picked:
                break
            tries -= len(picked)
            for offer, group in self._verify(self._prepare(picked, until)):
                taken[offer.peer] += 1
                drawn.append(group)
            waiting = [offer for offer in waiting if not self._is_out(offer.peer)]
        self.book.save()
        return drawn

    def _add_to_pool(self, received: Received) -> None:
        """Read a bundle and keep it. Raises ``RejectedGroup``."""
        try:
            bundle = unpack(received.data, peer=received.peer, swarm=self.rules.swarm)
        except BundleRefused as refusal:
            raise RejectedGroup(str(refusal), fault=True) from None
        if bundle.round > self.latest_round():
            raise RejectedGroup("round is in the future", fault=True)
        record = self.book.record(bundle.peer)
        record.round = max(record.round, bundle.round)
        record.offered += len(bundle.groups)
        for group in bundle.groups[:1]:
            record.kind, record.label = group.kind, group.label
        if called_wrong := sum(group.called_wrong for group in bundle.groups):
            self.refusals[ALL_WRONG] += called_wrong
        self.pool.put(bundle, len(received.data))

    def _in_order(self, seed: int) -> list[Offer]:
        """Return the offers in the order in which to try them: random, weighted by reputation.

        Sorting by the keys log(u)/w, largest first, draws without replacement (Efraimidis and Spirakis 2006). A peer's
        weight is divided among its offers, so that sending more does not help.
        """
        pooled = self.pool.offers(self.rules.stage)
        fresh = {peer: [each for each in offers if not self.vetting.is_used(each)] for peer, offers in pooled.items()}
        by_peer = {peer: offers for peer, offers in fresh.items() if offers and not self._is_out(peer)}
        worth = weights({peer: self.book.standing(peer) for peer in by_peer})
        chance = random.Random(seed)
        keyed = [
            (math.log(1.0 - chance.random()) * len(offers) / worth[peer], offer)
            for peer, offers in sorted(by_peer.items())
            for offer in offers
        ]
        return [offer for _, offer in sorted(keyed, key=lambda pair: -pair[0])]

    def _is_out(self, peer: str) -> bool:
        return peer in self._cooling_down or peer in self.barred

    def _pick(self, waiting: list[Offer], taken: Counter[str], count: int) -> list[Offer]:
        """Remove and return the next offers in ``waiting`` that stay within each peer's quota."""
        picked: list[Offer] = []
        asked = Counter(taken)
        for offer in list(waiting):
            if len(picked) == count:
                break
            if asked[offer.peer] < self.rules.quota:
                asked[offer.peer] += 1
                picked.append(offer)
                waiting.remove(offer)
        return picked

    def _prepare(self, offers: Sequence[Offer], until: float) -> list[tuple[Offer, Group]]:
        """Return the offers that pass vetting, as groups with this node's prompts."""
        found = []
        for offer in offers:
            known = self._questions.is_known(offer.round, offer.group)
            if self._questions.seconds >= until and not known:
                continue  # it stays in the pool
            self.pool.discard(offer)
            with self._counting(offer.peer):
                found.append((offer, self.vetting.prepare(offer)))
        return found

    def _verify(self, found: Sequence[tuple[Offer, Group]]) -> list[tuple[Offer, Group]]:
        """Recompute the rewards, compare them with the claims, and return the groups worth learning from."""
        kept = []
        for (offer, group), scores in zip(found, self._scores([group for _, group in found]), strict=True):
            with self._counting(offer.peer):
                self._compare(offer, scores)
                self.vetting.check_rewards(offer, group, scores)
                kept.append((offer, Group(group.prompt, group.rollouts, scores=scores)))
        return kept

    def _scores(self, groups: Sequence[Group]) -> list[tuple[Score, ...]]:
        """Return each group's scores, up to the first completion that holds up the verifier.

        Verifies one completion of every group at a time. A completion that uses too much CPU time or makes the verifier
        fail costs seconds, and the rest of its group is likely to be no better.
        """
        found: list[list[Score]] = [[] for _ in groups]
        for place in range(self.rules.group_size):
            left = [n for n, scores in enumerate(found) if not _held_up(scores)]
            if not left:
                break
            questions = [groups[n].prompt.question for n in left]
            for n, score in zip(
                left, self.tasks.score(questions, [said(groups[n].rollouts[place]) for n in left]), strict=True
            ):
                found[n].append(score)
        return [tuple(scores) for scores in found]

    def _compare(self, offer: Offer, scores: Sequence[Score]) -> None:
        """Record a peer's claimed and recomputed rewards.

        Raises ``RejectedGroup`` if a completion used too much CPU time or could not be judged.
        """
        if _held_up(scores):
            self._cooling_down[offer.peer] = COOLDOWN_DRAWS
            self.pool.discard_peer(offer.peer)
            # A verifier may also fail because of this machine, which is not the peer's fault.
            raise RejectedGroup("stalled the verifier", fault=scores[-1].why == TOO_SLOW)
        claims = [claim >= FULL_CREDIT * FULL for claim in offer.group.outcomes]
        correct = sum(score.correct for score in scores)
        self.book.was_verified(
            offer.peer,
            claimed=sum(claims) / len(claims),
            recomputed=correct / len(scores),
            completions=len(scores),
            correct=correct,
        )

    @contextmanager
    def _counting(self, peer: str) -> Iterator[None]:
        """Count why a peer's group or bundle was not used, and record the peer's fault, if any."""
        try:
            yield
        except RejectedGroup as unfit:
            self.refusals[unfit.why] += 1
            if unfit.fault:
                self.book.was_refused(peer)
            if unfit.skew:
                self.book.record(peer).skewed += 1


def _is_too_easy(offer: Offer, levels: Mapping[str, int]) -> bool:
    level = offer.group.level
    return level is not None and level < levels.get(offer.group.task, 0)


def _held_up(scores: Sequence[Score]) -> bool:
    return any(score.why == TOO_SLOW or not score.judged for score in scores[-1:])
