"""Notices hints that teach nothing, reports each round's hints, and later stops paying for useless ones."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from hivemind_exp.events import HintsEvent
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import TrainingRow
from hivemind_exp.journal.replies import ReceivedHint
from hivemind_exp.losses.hinted import mentions_hint
from hivemind_exp.offload.hints import GIVES_AWAY, STAGE, TOO_LONG
from hivemind_exp.rollouts.types import Group, Rollout
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.usefulness import Text, UsefulnessCheck
from hivemind_exp.tasks.base import Score

_NO_HELP = "of no help: this node's answers with them are wrong"
_CUT = "of no help: this node's answers with them are cut at the length limit"
_FORMAT = "of no use: this node's correct answers with them are not in the requested format"
_MENTIONED = "of no use: this node's correct answers mention them"


@dataclass(eq=False)
class HintCheck(UsefulnessCheck):
    """Counts hints instead of completions: one is useful if the node learns from an answer with it."""

    what: ClassVar[str] = "hints"
    few: ClassVar[int] = 4
    many: ClassVar[int] = 24
    """If 1 hint in 8 helps, this many in a row teach nothing in 4 of 100 cases."""
    faults: ClassVar[frozenset[str]] = frozenset({GIVES_AWAY, TOO_LONG, _CUT, _FORMAT, _MENTIONED})
    journal: Journal = field(kw_only=True)

    def count(self, round_: int, groups: Sequence[Group], rows: Sequence[TrainingRow]) -> None:
        """Count a round's hints, and emit the event ``hints`` if there are any."""
        replies = self.journal.replies(round_, STAGE).hints()
        if not replies:
            return
        learned = {row.prompt_ids for row in rows if row.kind is Kind.HINTED and row.advantage}
        hinted = {
            group.prompt.question.digest: (group.prompt.ids, pairs)
            for group in groups
            if (pairs := [pair for pair in group.scored() if pair[0].kind is Kind.HINTED])
        }
        found: dict[str, list[Text]] = defaultdict(list)
        taught: Counter[str] = Counter()
        solved = 0
        for question, reply in replies.items():
            ids, pairs = hinted.get(question, ((), []))
            solved += any(score.correct for _, score in pairs)
            taught[reply.provider] += ids in learned
            found[reply.provider].append(Text(_reason(reply, pairs), reply.model, reply.text))
        refused = sum(reply.refused is not None for reply in replies.values())
        counts = {"hints": len(replies), "refused": refused, "solved": solved, "taught": taught.total()}
        self.emit(HintsEvent(round=round_, **counts))
        for provider, texts in found.items():
            self._judge(round_, provider, texts, taught[provider])

    def _advice(self, reason: str, provider: str) -> tuple[str, str]:
        answers = "swarmctl run --set offload.teach=answers"
        if reason == GIVES_AWAY:
            return "Choose another model (offload.model), or learn its answers (offload.teach=answers)", answers
        if reason == TOO_LONG:
            limit = self.config.generation.max_prompt_tokens
            command = f"swarmctl run --set generation.max_prompt_tokens={2 * limit}"
            return f"Raise generation.max_prompt_tokens (now {limit})", command
        if reason == _CUT:
            limit = self.config.generation.max_completion_tokens
            command = f"swarmctl run --set generation.max_completion_tokens={2 * limit}"
            return f"Raise generation.max_completion_tokens (now {limit})", command
        return (
            "This model may be too small to follow hints. Choose another model for them (offload.model), learn its "
            "answers (offload.teach=answers) or choose an easier task",
            answers if reason != _NO_HELP else f"swarmctl models {provider}",
        )


def _reason(reply: ReceivedHint, pairs: Sequence[tuple[Rollout, Score]]) -> str:
    """Return why a hint may have taught nothing, as the end of a sentence that begins with "hints are"."""
    if reply.refused is not None:
        return reply.refused
    correct = [(rollout, score) for rollout, score in pairs if score.correct]
    if not correct:
        return _CUT if pairs and all(rollout.truncated for rollout, _ in pairs) else _NO_HELP
    return _MENTIONED if any(score.strict and mentions_hint(row.text) for row, score in correct) else _FORMAT
