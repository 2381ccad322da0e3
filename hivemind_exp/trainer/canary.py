"""The canary: if the accuracy on the held-out questions falls, training returns to the last good weights.

It compares evaluations question by question. What the node learned from others since the last good evaluation is then
under suspicion, so the peers and providers are quarantined. If the node learned only from itself, nobody else is to
blame: the learning rate is probably too high, and the canary only says so.

The return is a new checkpoint with the weights and the optimizer of an earlier one; steps and rounds count on. It is
recorded before it is made, so that a node that is killed meanwhile makes it when it resumes.
"""

import json
import shlex
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hivemind_exp.config import Config
from hivemind_exp.errors import CheckpointError
from hivemind_exp.events import Emit, NoteEvent, WarningEvent
from hivemind_exp.foreign_text import foreign
from hivemind_exp.intervals import paired, sign_test
from hivemind_exp.journal.canary_log import (
    CanaryLog,
    GoodCheckpoint,
    Restoration,
    Suspect,
    read_quarantine,
    suspect_of,
    write_quarantine,
)
from hivemind_exp.journal.records import Evaluation, SourceContribution
from hivemind_exp.swarm.identity import animal_name, is_peer_id
from hivemind_exp.trainer.checkpoints import SEAL, CheckpointStore, find
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer
from hivemind_exp.trainer.round_loop import NodeProgress

CHANCE = 1e-3
"""A fall counts if it is less likely than this by chance, given on how many questions the evaluations differ."""
GROWN = 3.0
"""If the gradient has grown by this factor, the learning rate may be too high."""
ROUNDS = 50
"""Rounds of a quarantine."""


@dataclass
class Canary:
    """Watches a node's evaluations."""

    config: Config
    log: CanaryLog
    quarantine: Path
    """``quarantine.json``, which the user may change while the node runs."""
    checkpoints: CheckpointStore
    step_trainer: SourceGRPOTrainer
    progress: NodeProgress
    emit: Emit
    save: Callable[[], None] = lambda: None
    """Saves a checkpoint."""
    _told: set[int] = field(default_factory=set)
    """Rounds of the good evaluations after which a fall was reported that no peer or provider can have caused."""

    def __post_init__(self) -> None:
        self._pin(self.log.last_good())

    def barred(self) -> frozenset[str]:
        """Return who is quarantined in the current round: peer ids, and providers' names."""
        return frozenset(each.source for each in read_quarantine(self.quarantine) if each.until > self.progress.round)

    def watch(self, evaluation: Evaluation) -> bool:
        """Compare an evaluation with the last good one, and act on a fall. Return whether it did or said something."""
        good, now = self.log.last_good(), self.log.answers(evaluation.round)
        before = {} if good is None else self.log.answers(good.round)
        common = before.keys() & now.keys()
        lost = sum(before[each] and not now[each] for each in common)
        won = sum(now[each] and not before[each] for each in common)
        if good is None or not common or won >= lost:
            self._remember(GoodCheckpoint(evaluation.round, self.progress.step))
            return False
        if sign_test(lost, won) >= CHANCE or paired(lost, won, len(common))[1] >= 0:
            return False
        was, right = sum(before[each] for each in common), sum(now[each] for each in common)
        low, high = paired(lost, won, len(common))
        what = (
            f"accuracy on the held-out questions fell from {was / len(common):.0%} (round {good.round}) to "
            f"{right / len(common):.0%} (round {evaluation.round}). Of the same {len(common)} questions, {lost} are "
            f"wrong now and were correct before, and {won} the reverse: a change of {100 * low:.0f} to "
            f"{100 * high:.0f} points"
        )
        last = max((each.step for each in self.log.restorations()), default=0)
        others = self.log.foreign(max(good.step, last), self.progress.step)
        if others:
            self._go_back(good, others, what)
        elif good.round not in self._told:
            self._told.add(good.round)
            self._blame_learning_rate(good, what, again=last > good.step)
        return True

    def finish_restoration(self) -> bool:
        """Make the restoration that belongs to the current step, unless it has been made. Return whether it was."""
        for each in self.log.restorations():
            if each.step == self.progress.step and not self._is_made(each):
                self._make(each)
                message = f"Finished restoring the weights of checkpoint {each.source}, after which the accuracy fell."
                self.emit(NoteEvent(code="restored", message=message))
                return True
        return False

    def _remember(self, good: GoodCheckpoint) -> None:
        """Remember an evaluation as good, with a checkpoint if the node uses peers or an API."""
        if self.config.offload.provider == "off" and not self.config.swarm.join:
            self.log.write_good(good)
            return
        self.save()
        self.log.write_good(good)
        self._pin(good)

    def _pin(self, good: GoodCheckpoint | None) -> None:
        self.checkpoints.pinned.clear()
        if good is not None:
            self.checkpoints.pinned.add(good.step)

    def _go_back(self, good: GoodCheckpoint, others: list[SourceContribution], what: str) -> None:
        suspects = tuple(sorted({suspect_of(each) for each in others}))
        round_, node = self.progress.round, shlex.quote(self.config.node.name)
        restoration = Restoration(self.progress.step, round_, good.step, suspects, round_ + ROUNDS)
        learned = ", ".join(map(_said, others))
        message = (
            f"{what}. Restored the weights of round {good.round}. Since then, the node had learned from {learned}. It "
            f"does not learn from them again before round {restoration.until}. {self._gradients(good)}To lift this "
            f"now: swarmctl quarantine {node} --lift all"
        )
        self.log.write_restoration(restoration)
        self._make(restoration)
        self.emit(WarningEvent(code="canary", message=message))

    def _gradients(self, good: GoodCheckpoint) -> str:
        """Return a sentence if the gradient has grown so much that the learning rate may be the cause, too."""
        norms = self._norms(good)
        if norms is None or norms[1] < GROWN * norms[0]:
            return ""
        grown = f"The median gradient norm grew from {norms[0]:.3g} to {norms[1]:.3g}"
        return f"{grown}, so the learning rate may be too high, too. "

    def _norms(self, good: GoodCheckpoint) -> tuple[float, float] | None:
        """Return the median gradient norms before a good evaluation and since; None if one is unknown."""
        earlier = self.log.gradient_norms(0, good.step)
        since = self.log.gradient_norms(good.step, self.progress.step)
        return (statistics.median(earlier), statistics.median(since)) if earlier and since else None

    def _blame_learning_rate(self, good: GoodCheckpoint, what: str, *, again: bool) -> None:
        """Report a fall after learning only from itself. ``again``: it is the second one since the good evaluation.

        Peers and providers stay quarantined, because they may already have affected the weights that seemed good.
        """
        rate = self.config.train.learning_rate
        parts = [f"{what}. Since then the node has learned only from its own completions"]
        if again:
            parts.append("It fell again while peers and providers were quarantined, so they may not be the cause")
        if (norms := self._norms(good)) is not None:
            parts.append(f"The median gradient norm was {norms[0]:.3g} before and {norms[1]:.3g} since")
        parts.append(f"The learning rate is probably too high: try train.learning_rate={rate / 3:.1g} (now {rate:g})")
        self.emit(WarningEvent(code="accuracy_fell", message=". ".join(parts)))

    def _make(self, restoration: Restoration) -> None:
        """Load the earlier weights, and save them as the current step's checkpoint. Can be repeated."""
        known = find(self.checkpoints.root, restoration.source)
        if known is None:
            raise CheckpointError(f"cannot restore the weights of checkpoint {restoration.source}: it is missing")
        self.step_trainer.restore(known.path)
        held = {each.source: each for each in read_quarantine(self.quarantine)}
        for source in restoration.suspects:
            held[source] = Suspect(source, restoration.round, restoration.until)
        write_quarantine(self.quarantine, tuple(held[source] for source in sorted(held)))
        saved = self.checkpoints.save(
            restoration.step, restoration.round, self.step_trainer.save, restored=restoration.source
        )
        self.progress.checkpoint = saved.path

    def _is_made(self, restoration: Restoration) -> bool:
        seal = self.checkpoints.root / f"{restoration.step:08d}" / SEAL
        try:
            return bool(json.loads(seal.read_bytes()).get("restored") == restoration.source)
        except (OSError, ValueError, AttributeError):
            return False


def _said(each: SourceContribution) -> str:
    """Return what a source contributed, in words."""
    source = suspect_of(each)
    who = f"peer {animal_name(source)}" if is_peer_id(source) else foreign(source)
    return f"{each.completions} completion{'' if each.completions == 1 else 's'} of {who}"
