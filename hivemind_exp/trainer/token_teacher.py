"""Has a teacher score the node's own completions, token by token, before the step that learns from them.

The first request is a test: the teacher scores a known text twice. Its scores must be the same both times, and its
tokens those of this node. Scores are in the journal before they are used, so no completion is paid for twice.
"""

import hashlib
import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from transformers import PreTrainedTokenizerBase

from hivemind_exp.config import Config
from hivemind_exp.errors import ProviderError
from hivemind_exp.events import Emit, PhaseEvent, ScoresEvent, WarningEvent
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import StageRun
from hivemind_exp.models.chat_format import encode
from hivemind_exp.offload.api.scoring import mean_distance
from hivemind_exp.offload.request_filler import PROBE_ROUND
from hivemind_exp.offload.settings import SCORE_STAGE, first_endpoint
from hivemind_exp.offload.unscored import LEARN_FROM_ANSWERS, WITHOUT_SCORES
from hivemind_exp.offload.unusable import TEST_MESSAGES
from hivemind_exp.rollouts.types import CompletionRequest, Group, Rollout, TokensToScore, encode_completion
from hivemind_exp.sources.schedule import in_rounds

TEST_TEXT = "<answer>5</answer> Because (2 + 3) * 1 = 5, the sum is 5: no doubt.\nQ.E.D."
STEADY = 0.05
"""Most nats per token by which two scores of one text may differ. Servers batch requests in different ways, and compute
in bfloat16."""
ROUNDS_IN_VAIN = 3
"""A paid provider is no longer asked after this many rounds in a row without a single score."""


class Scorer(Protocol):
    """What a teacher needs of ``OffloadClient``, which documents the methods."""

    def submit(self, orders: Iterable[CompletionRequest]) -> None: ...

    def wait(self, round_: int, deadline: float | None = None) -> None: ...

    def report_spend(self, round_: int) -> None: ...

    def set_aside(self, provider: str, why: str, command: str) -> None: ...


@dataclass
class TokenTeacher:
    """Adds a teacher's scores to completions. Use it from the trainer's thread."""

    config: Config
    scorer: Scorer
    journal: Journal
    tokenizer: PreTrainedTokenizerBase
    emit: Emit
    _texts: dict[int, str] = field(default_factory=dict)
    """Tokens as text, by id."""
    _tested: bool = False
    _vain: int = 0
    """Rounds in a row without a single score."""

    def test(self) -> None:
        """Let the teacher score a known text twice. If it is unavailable, it is tested before its first use.

        Raises ``ProviderError`` if it returns no scores, other ones each time, or has another tokenizer.
        """
        self.emit(PhaseEvent(name="testing the teacher's scores"))
        prompt = tuple(encode(list(TEST_MESSAGES), self.tokenizer))
        tokens = self._tokens(prompt, encode_completion(self.tokenizer, TEST_TEXT, truncated=False))
        names = [f"{SCORE_STAGE} {secrets.token_hex(8)} {number}" for number in range(2)]
        self._request(PROBE_ROUND, dict.fromkeys(names, tokens), version=0)
        found = self.journal.replies(PROBE_ROUND, SCORE_STAGE).scores()
        if not all(name in found for name in names):
            return
        first, second = (found[name].logps for name in names)
        apart = mean_distance(first, second)
        if apart > STEADY:
            raise ProviderError(
                f"{first_endpoint(self.config).label} cannot be this node's teacher: it scored the same text twice, "
                f"and the log-probabilities differ by {apart:.2g} nats per token (at most {STEADY} are allowed). "
                "Perhaps several models or quantizations answer under one name",
                next=LEARN_FROM_ANSWERS,
            )
        self._tested = True

    def score(self, stage_run: StageRun, groups: Sequence[Group], version: int) -> list[Group]:
        """Return a stage's groups with scores for the node's own completions, as far as the teacher has any.

        ``version``: the node's optimizer steps. Raises ``StopRequested`` and ``NodeError``.
        """
        offload, round_ = self.config.offload, stage_run.round
        if stage_run.stage not in offload.stages or not in_rounds(offload.rounds, round_):
            return list(groups)
        if not self._tested:
            self.test()
        if not self._tested:
            return list(groups)
        wanted = {
            self._name(group, rollout): self._tokens(group.prompt.ids, rollout.ids)
            for group in groups
            for rollout in group.rollouts
            if rollout.kind.own
        }
        self._request(round_, wanted, version)
        replies = self.journal.replies(round_, SCORE_STAGE)
        found = replies.scores()
        scored = [
            replace(
                group,
                rollouts=tuple(
                    replace(rollout, scores=found.get(self._name(group, rollout))) if rollout.kind.own else rollout
                    for rollout in group.rollouts
                ),
            )
            for group in groups
        ]
        self._count(round_, scored, [why for name, why in replies.given_up().items() if name in wanted])
        return scored

    def _request(self, round_: int, wanted: dict[str, TokensToScore], version: int) -> None:
        orders = [
            CompletionRequest(round_, SCORE_STAGE, name, (), (0,), version, scored=tokens)
            for name, tokens in wanted.items()
            if not self.journal.settled(round_, SCORE_STAGE, name)
        ]
        self.scorer.submit(orders)
        self.scorer.wait(round_)
        self.scorer.report_spend(round_)

    def _name(self, group: Group, rollout: Rollout) -> str:
        """Return what identifies scores in the journal: SHA-256 (hex) of the teacher and of the tokens."""
        parts = (first_endpoint(self.config).full_name, str(group.prompt.ids), str(rollout.ids))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _tokens(self, prompt: Sequence[int], completion: Sequence[int]) -> TokensToScore:
        return TokensToScore(tuple(prompt), tuple(completion), tuple(map(self._text, completion)))

    def _text(self, token: int) -> str:
        if token not in self._texts:
            self._texts[token] = str(self.tokenizer.decode([token], clean_up_tokenization_spaces=False))
        return self._texts[token]

    def _count(self, round_: int, groups: Sequence[Group], reasons: Sequence[str]) -> None:
        """Report a round's scores. Stop asking a paid teacher that returns none."""
        own = [rollout for group in groups for rollout in group.rollouts if rollout.kind.own]
        scored = sum(rollout.scores is not None for rollout in own)
        self.emit(ScoresEvent(round=round_, scored=scored, unscored=len(own) - scored))
        if scored or not reasons:  # without a reason, the teacher was not asked: it is unavailable, or a cap is reached
            self._vain = 0 if scored else self._vain
            return
        self._vain += 1
        endpoint = first_endpoint(self.config)
        ((why, _),) = Counter(reasons).most_common(1)
        if self._vain == 1:
            message = (
                f"{endpoint.label} scored none of the {len(own)} completions of round {round_ + 1} ({why}). "
                f"{WITHOUT_SCORES}"
            )
            self.emit(WarningEvent(code="taught_nothing", message=message, provider=endpoint.name))
        if self._vain == ROUNDS_IN_VAIN:
            what = f"it scored no completion in {ROUNDS_IN_VAIN} rounds ({why})"
            self.scorer.set_aside(endpoint.name, what, LEARN_FROM_ANSWERS)
