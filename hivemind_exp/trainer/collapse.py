"""Notices when a node's own completions teach it nothing, and reports why and which setting helps."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from hivemind_exp.config import Config
from hivemind_exp.events import Emit, WarningEvent
from hivemind_exp.intervals import in_percent
from hivemind_exp.journal.records import Evaluation
from hivemind_exp.rollouts.types import Group, Rollout
from hivemind_exp.tasks.base import NO_ANSWER, Score
from hivemind_exp.tasks.families.reasoning_gym_catalogue import GENERATORS
from hivemind_exp.tasks.registry import PRESETS, is_own_code
from hivemind_exp.trainer.refill import has_own, teaches

COMPLETIONS_IN_VAIN = 512
"""A model that earns a reward for 1 completion in 100 reaches this number without a reward in 6 of 1000 cases."""
ROUNDS_IN_VAIN, MOST_ROUNDS_IN_VAIN = 4, 10
"""Rounds without a reward: below the first number, nothing is reported; from the second on, few completions suffice."""
CHANCE = 1e-3
"""An accuracy of 0 counts as a collapse if, given the best accuracy so far, its probability is below this."""
_ALL = 0.9
"""If the rewards in each group are equal for many rounds, and more than this share is correct, the task is too easy."""
_OFTEN = 0.1
"""If more than this share of completions was correct, the model was able to answer."""
CUT, UNREAD, _UNJUDGED = "cut at the length limit", "without a readable answer", "not verified"


@dataclass
class CollapseCheck:
    """Counts the rounds in which the node's own completions earn no reward, or all earn the same."""

    config: Config
    emit: Emit
    _rounds: int = 0
    _told: bool = False
    """Whether the current series of rounds without a reward has been reported."""
    _patience: int = 0
    """How long the next such series must be: twice as long as the last one reported, until rewards are common again."""
    _reasons: Counter[str] = field(default_factory=Counter)
    """The reasons why completions since the last reward earned none."""
    _alike: Counter[bool] = field(default_factory=Counter)
    """Whether each completion was correct, in the latest rounds with rewards, none of which made a difference."""
    _alike_rounds: int = 0
    _rewarded: int = 0
    """Completions with a reward so far."""
    _seen: int = 0
    """Completions up to the latest round with a reward."""
    _collapsed: bool = False
    _talks: bool = False
    """Whether the node has conversations with environments."""
    _best: float = 0.0
    """The best accuracy on held-out questions so far."""

    def remember(self, evaluations: Sequence[Evaluation]) -> None:
        """Take into account how accurate the node was in earlier runs."""
        self._best = max((each.accuracy for each in evaluations), default=0.0)

    def count(self, groups: Sequence[Group], unjudged: int = 0) -> None:
        """Count a round's verified groups. Warns once per series, and less often if series recur.

        ``unjudged``: the number of the node's own completions that could not be verified.
        """
        own = [pair for group in groups for pair in group.scored() if pair[0].kind.own and pair[1].judged]
        self._talks = self._talks or any(rollout.turns for rollout, _ in own)
        if rewarded := sum(score.outcome > 0 for _, score in own):
            self._rewarded, self._seen = self._rewarded + rewarded, self._seen + self._reasons.total() + len(own)
            self._rounds, self._reasons, self._told = 0, Counter(), False
            if rewarded >= _OFTEN * len(own):
                self._patience = 0
            self._count_alike(groups, own)
            return
        self._rounds += bool(own or unjudged)
        self._reasons.update(_reason(rollout, score) for rollout, score in own)
        self._reasons[_UNJUDGED] += unjudged
        if self._is_long() and not self._told and self._rounds >= self._patience:
            self._told, self._patience = True, 2 * self._rounds
            self._warn_of_vain(f"no reward in the last {self._rounds} rounds")

    def finished(self) -> None:
        """Warn after the last round, if there was no reward at all and nothing has been said yet."""
        if self._rounds >= ROUNDS_IN_VAIN and not self._rewarded and not self._is_long():
            self._warn_of_vain(f"no reward in any of this run's {self._rounds} rounds")

    def _is_long(self) -> bool:
        if self._rounds >= ROUNDS_IN_VAIN and self._reasons.total() >= COMPLETIONS_IN_VAIN:
            return True
        # Small rounds without a reward may be chance, if rewards have been rare before.
        rate = self._rewarded / self._seen if 0 < self._rewarded < self._seen else 1 - CHANCE
        return self._rounds >= MOST_ROUNDS_IN_VAIN and self._reasons.total() * math.log1p(-rate) < math.log(CHANCE)

    def _count_alike(self, groups: Sequence[Group], own: Sequence[tuple[Rollout, Score]]) -> None:
        """Count a round with rewards. Warn if such rounds have made no difference for long."""
        if any(teaches(group) for group in groups if has_own(group)):
            self._alike_rounds, self._alike = 0, Counter()
            return
        self._alike_rounds += 1
        self._alike.update(score.correct for _, score in own)
        if self._alike_rounds == MOST_ROUNDS_IN_VAIN:
            right, total = self._alike[True], self._alike.total()
            advice = "Set game.refill, which replaces such groups with more questions"
            if right >= _ALL * total or self.config.game.refill:
                advice = "Choose a harder task (tasks), or stop the node: it can learn nothing more here"
            message = (
                f"no group taught anything in the last {self._alike_rounds} rounds; {right} of {total} completions "
                f"were correct. {advice}"
            )
            self.emit(WarningEvent(code="no_difference", message=message))

    def evaluated(self, evaluations: Sequence[Evaluation]) -> None:
        """Warn if the accuracy has fallen to 0. ``evaluations``: all of the node's, oldest first."""
        *earlier, last = evaluations
        self.remember(evaluations)
        peak = max(earlier, key=lambda each: each.accuracy, default=last)
        best = peak.accuracy
        fell = last.accuracy == 0 < best and (best == 1 or last.questions * math.log1p(-best) < math.log(CHANCE))
        if fell and not self._collapsed:
            self._rewarded = self._seen = max(1, self._rewarded)
            change = f"from {_measured(peak)} to {_measured(last)}"
            self._warn("collapsed", f"accuracy on held-out questions fell {change} in round {last.round}")
        self._collapsed = fell

    def _warn_of_vain(self, what: str) -> None:
        self._warn("no_reward", f"{what} ({self._reasons.total()} completions)")

    def _warn(self, code: str, what: str) -> None:
        message = what
        reason = ""
        if self._reasons:
            ((reason, times),) = self._reasons.most_common(1)
            message += f"; {times} of {self._reasons.total()} completions were {reason}"
        self.emit(WarningEvent(code=code, message=f"{message}. {self._advice(reason)}"))

    def _advice(self, reason: str) -> str:
        if reason == _UNJUDGED:
            return "Verifiers keep failing on them: look for their errors (swarmctl logs)"
        if max(self._best, self._rewarded / max(1, self._seen)) >= _OFTEN:
            rate = self.config.train.learning_rate
            begin = "The model used to end its answers, and no longer does. " if reason == CUT else ""
            return f"{begin}Start a new node with a lower train.learning_rate (now {rate:g}) or with train.beta above 0"
        return ways_to_a_reward(self.config, reason, talks=self._talks)


def _measured(evaluation: Evaluation) -> str:
    """Return an accuracy with its 95 % interval."""
    share, questions = evaluation.accuracy, evaluation.questions
    return f"{100 * share:.0f} % ({in_percent(share, questions)})"


def _reason(rollout: Rollout, score: Score) -> str:
    if rollout.turns:
        return CUT if rollout.truncated else score.why
    unread = score.why == NO_ANSWER
    return CUT if unread and rollout.truncated else UNREAD if unread else score.why


def ways_to_a_reward(config: Config, reason: str, *, talks: bool = False) -> str:
    """Return what helps a model whose completions earn nothing for a reason: CUT, UNREAD or another.

    ``talks``: the completions are conversations, in which only the node's own model can take part.
    """
    if reason == CUT:
        return f"Raise generation.max_completion_tokens (now {config.generation.max_completion_tokens})"
    if talks:
        return (
            "Check that the environment rewards a conversation that goes well (swarmctl tasks try), choose an easier "
            "one (tasks) or choose a more capable model (model.name)"
        )
    game = config.game
    if reason == UNREAD:
        helps = ["choose a model that follows instructions (model.name)"]
        if game.kind == "sampling" and not game.format_reward and not config.train.joins_baseline:
            helps.append("reward the format (game.format_reward=0.2)")
        helps.append("let a teacher show it (offload.provider)")
    else:
        helps = ["choose an easier task (tasks)", "choose a more capable model (model.name)"]
        generated = any(task.name in GENERATORS or task.name in PRESETS for task in config.tasks)
        if generated and not game.curriculum and not config.swarm.join:
            helps.insert(0, "start with easier questions (game.curriculum=true)")
        if any(is_own_code(task.name) for task in config.tasks):
            helps.insert(0, "check that your task rewards a correct answer (swarmctl tasks try)")
        helps.append("learn from a teacher (offload.provider)")
    if game.kind == "sampling" and not config.warm_start.steps and config.model.name != "tiny":
        helps.append("start a new node with a warm start (warm_start.steps=8)")
    *others, last = helps
    text = f"{', '.join(others)} or {last}"
    return text[:1].upper() + text[1:]
