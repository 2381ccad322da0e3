"""Notices when a node's own completions no longer earn rewards, and reports why and which setting helps."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from hivemind_exp.config import Config
from hivemind_exp.events import Emit, WarningEvent
from hivemind_exp.journal.records import Evaluation
from hivemind_exp.rollouts.types import Group, Rollout
from hivemind_exp.tasks.base import NO_ANSWER, Score

COMPLETIONS_IN_VAIN = 512
"""A model that earns a reward for 1 completion in 100 reaches this number without a reward in 6 of 1000 cases."""
ROUNDS_IN_VAIN, MOST_ROUNDS_IN_VAIN = 4, 100
"""Rounds without a reward: below the first number, nothing is reported; from the second on, few completions suffice."""
CHANCE = 1e-3
"""An accuracy of 0 counts as a collapse if, given the best accuracy so far, its probability is below this."""
_CUT = "cut at the length limit"


@dataclass
class CollapseCheck:
    """Counts the rounds without a reward for the node's own completions."""

    config: Config
    emit: Emit
    _rounds: int = 0
    _reasons: Counter[str] = field(default_factory=Counter)
    """The reasons why completions since the last reward earned none."""
    _rewarded: bool = False
    _collapsed: bool = False

    def count(self, groups: Sequence[Group]) -> None:
        """Count a round's verified groups. Warns once per series of rounds without a reward."""
        own = [pair for group in groups for pair in group.scored() if pair[0].kind.own and pair[1].judged]
        if any(score.outcome > 0 for _, score in own):
            self._rewarded, self._rounds, self._reasons = True, 0, Counter()
            return
        told = self._is_long()
        self._rounds += bool(own)
        self._reasons.update(_reason(rollout, score) for rollout, score in own)
        if self._is_long() and not told:
            completions, rounds = self._reasons.total(), self._rounds
            self._warn("no_reward", f"no reward in the last {rounds} rounds ({completions} completions)")

    def _is_long(self) -> bool:
        enough = self._rounds >= ROUNDS_IN_VAIN and self._reasons.total() >= COMPLETIONS_IN_VAIN
        return enough or self._rounds >= MOST_ROUNDS_IN_VAIN

    def evaluated(self, evaluations: Sequence[Evaluation]) -> None:
        """Warn if the accuracy has fallen to 0. ``evaluations``: all of the node's, oldest first."""
        *earlier, last = evaluations
        best = max((each.accuracy for each in earlier), default=0.0)
        fell = last.accuracy == 0 < best and (best == 1 or last.questions * math.log1p(-best) < math.log(CHANCE))
        if fell and not self._collapsed:
            self._rewarded = True
            self._warn("collapsed", f"accuracy on held-out questions fell from {best:.0%} to 0% (round {last.round})")
        self._collapsed = fell

    def _warn(self, code: str, what: str) -> None:
        message = what
        reason = ""
        if self._reasons:
            ((reason, times),) = self._reasons.most_common(1)
            message += f"; {times} of {self._reasons.total()} completions were {reason}"
        self.emit(WarningEvent(code=code, message=f"{message}. {self._advice(reason)}"))

    def _advice(self, reason: str) -> str:
        if reason == _CUT:
            limit = self.config.generation.max_completion_tokens
            return f"Raise generation.max_completion_tokens (now {limit})"
        if self._rewarded:
            rate = self.config.train.learning_rate
            return f"Start a new node with a lower train.learning_rate (now {rate:g}) or with train.beta above 0"
        if reason == "wrong":
            return "Choose an easier task (tasks) or a more capable model (model.name)"
        return (
            "Choose a model that follows instructions (model.name), or let a teacher show the format (offload.provider)"
        )


def _reason(rollout: Rollout, score: Score) -> str:
    unread = score.why == NO_ANSWER
    return _CUT if unread and rollout.truncated else "without a readable answer" if unread else score.why
