"""Notices completions from an API that teach nothing. Reports why after the first round; later, stops paying."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from hivemind_exp.config import Config
from hivemind_exp.events import Emit, WarningEvent
from hivemind_exp.foreign_text import foreign
from hivemind_exp.journal.records import TrainingRow
from hivemind_exp.model_names import short_name
from hivemind_exp.offload.settings import LOCAL, token_limit
from hivemind_exp.offload.unusable import quoted_start
from hivemind_exp.rollouts.types import Group, Rollout
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.source import Source
from hivemind_exp.tasks.base import Score

ROUNDS_IN_VAIN = 3
COMPLETIONS_IN_VAIN = 64
"""A paid provider is no longer used after this many rounds in a row, with at least this many completions, taught
nothing. For a model that answers 1 question in 20 correctly, this happens by chance in 4 of 100 cases."""
_FEW = 8
"""Fewer completions than this that teach nothing are not reported: they may be wrong by chance."""
_MOST = 0.5
"""A fault of form is reported if this share of a round's completions has it, even if others taught something."""
_CUT, _UNTAGGED, _WRONG = "cut at the length limit", "correct but not in the requested format", "wrong"
_KNOWN = "no better than the node's own"


class Text(NamedTuple):
    """A paid text, and why it may have taught nothing."""

    reason: str
    model: str
    text: str


@dataclass(eq=False)
class UsefulnessCheck:
    """Counts, for each provider, the completions that teach something and those that don't."""

    config: Config
    source: Source
    emit: Emit
    what: ClassVar[str] = "completions"
    """What is paid for."""
    few: ClassVar[int] = _FEW
    many: ClassVar[int] = COMPLETIONS_IN_VAIN
    faults: ClassVar[frozenset[str]] = frozenset({_CUT, _UNTAGGED})
    """Reasons that are reported even if other texts taught something."""
    _vain: dict[str, tuple[int, int]] = field(default_factory=lambda: defaultdict(lambda: (0, 0)))
    """Rounds in a row that taught nothing, and their completions, by provider."""
    _told: set[str] = field(default_factory=set)

    def count(self, round_: int, groups: Sequence[Group], rows: Sequence[TrainingRow]) -> None:
        """Count one stage's verified groups. ``rows``: those that its step learns from."""
        kind = self.source.kind
        learned = Counter(row.source.partition(":")[0] for row in rows if row.kind is kind and row.advantage)
        found: dict[str, list[Text]] = defaultdict(list)
        for rollout, score in (pair for group in groups for pair in group.scored()):
            if rollout.kind is kind and rollout.source != LOCAL:  # a server of this node's weights has the same kind
                found[rollout.source].append(Text(_reason(rollout, score), rollout.model or "", rollout.text))
                learned[rollout.source] += kind is Kind.RELAY and score.correct
        for provider, texts in found.items():
            self._judge(round_, provider, texts, learned[provider])

    def _judge(self, round_: int, provider: str, texts: Sequence[Text], learned: int) -> None:
        reasons, kind = [each.reason for each in texts], self.source.kind
        ((reason, times),) = Counter(reasons).most_common(1)
        typical = texts[reasons.index(reason)]
        advice, command = self._advice(reason, provider)
        text = (
            f"{times} of {len(texts)} {self.what} from {provider}:{foreign(short_name(typical.model))} in round "
            f"{round_ + 1} are {reason}, for example {quoted_start(typical.text)}"
        )
        if learned:
            self._vain.pop(provider, None)
            if reason in self.faults and times >= max(self.few, _MOST * len(texts)):
                self._warn(reason, provider, f"{text}. {advice}")
            return
        rounds, vain = self._vain[provider]
        self._vain[provider] = rounds, vain = rounds + 1, vain + len(texts)
        if vain >= self.few:
            none = "is correct" if kind is Kind.RELAY else "teaches this node anything"
            self._warn("nothing", provider, f"{text}; none of them {none}. {advice}")
        if rounds >= ROUNDS_IN_VAIN and vain >= self.many:
            what = "was correct" if kind is Kind.RELAY else "taught this node anything"
            why = f"none of its last {vain} {self.what}, in {rounds} rounds, {what}"
            self.source.set_aside(provider, f"{why}; most are {reason}", command)

    def _advice(self, reason: str, provider: str) -> tuple[str, str]:
        """Return what to change, for people, and the command for it."""
        limit = token_limit(self.config)
        if reason == _CUT:
            return f"Raise offload.max_tokens (now {limit})", f"swarmctl run --set offload.max_tokens={2 * limit}"
        if self.source.kind.own:  # GRPO compares the completions of a group, so all were equally good
            return "Choose tasks that the model sometimes solves and sometimes fails", "swarmctl run --offload off"
        if reason == _KNOWN:
            return (
                "Set offload.when=failed, to ask only where this node fails, or choose a harder task",
                "swarmctl run --set offload.when=failed",
            )
        return "Choose another model (offload.model) or an easier task", f"swarmctl models {provider}"

    def _warn(self, what: str, provider: str, message: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self.emit(WarningEvent(code="taught_nothing", message=message, provider=provider))


def _reason(rollout: Rollout, score: Score) -> str:
    """Return why a completion may have taught nothing."""
    if score.correct:
        return _KNOWN if score.strict else _UNTAGGED
    return _CUT if rollout.truncated and not score.strict else _WRONG
