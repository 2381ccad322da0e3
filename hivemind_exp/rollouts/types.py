"""Prompts, rollouts and groups; the request to an API for one prompt, and its result."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.base import Question, Score
from hivemind_exp.tasks.verifiers.answer_tags import TAGS
from hivemind_exp.tasks.verifiers.reader import answer_span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BREAK = "\ufdd0"
"""Splits the string of a control token in two, and then disappears. A Unicode noncharacter, which no text contains."""
Message = dict[str, str]
"""One turn of a chat: ``role`` and ``content``."""


MOST_ANSWERS = 2
"""Maximum number of different correct completions of a teacher that are learned from per question. More of them teach
this question by heart."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A stage's prompt for one question."""

    question: Question
    stage: str
    messages: tuple[Message, ...]
    ids: tuple[int, ...]
    """Token ids under this node's tokenizer, ready for completion."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Facts about the prompt's content that the stage's rewards need (JSON). Never shown to a model."""


@dataclass(frozen=True, slots=True)
class TeacherScores:
    """A teacher's log-probabilities of the tokens of a completion that it did not write."""

    teacher: str
    """Provider and model: "vllm:Qwen/Qwen3-8B"."""
    logps: tuple[float, ...] = field(repr=False)
    """One per token, at most 0."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a conversation, after its first messages."""

    role: str
    """``assistant`` for the model; else the role of an environment's message."""
    text: str
    tokens: int
    """The tokens of the rollout that belong to it. Several messages of an environment in a row count as its last."""

    @property
    def sampled(self) -> bool:
        """Whether the model wrote it."""
        return self.role == MODEL


MODEL = "assistant"
"""The model's role in a conversation."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion, or one conversation with an environment."""

    kind: Kind
    source: str
    """Where it came from: "local", a provider's name or a peer's id."""
    text: str
    ids: tuple[int, ...]
    """Token ids under this node's tokenizer, including the end-of-sequence token if there was one. Never empty. In a
    conversation, everything after the first messages, as the model saw and sampled it."""
    truncated: bool
    """Whether it was cut at the length limit."""
    lag: int | None = 0
    """Optimizer steps between the weights that generated it and those that learn from it. None if unknown."""
    model: str | None = None
    """The model's name, as stated by a provider or claimed by a peer. None for this node's own."""
    behaviour_logps: tuple[float, ...] | None = field(default=None, repr=False)
    """Log-probabilities under the weights that generated it, one per token. None for text and for rows sampled here."""
    scores: TeacherScores | None = None
    """None: no teacher has scored it."""
    turns: tuple[Turn, ...] = ()
    """The turns of a conversation. Empty for a completion."""
    score: Score | None = None
    """The environment's verdict on a conversation. None for a completion, which a verifier scores."""

    def __post_init__(self) -> None:
        if not self.ids:
            raise ValueError("a rollout needs at least one token: an empty completion is the end-of-sequence token")
        if self.behaviour_logps is not None and len(self.behaviour_logps) != len(self.ids):
            raise ValueError(f"{len(self.behaviour_logps)} log-probabilities for {len(self.ids)} tokens")
        if self.scores is not None and len(self.scores.logps) != len(self.ids):
            raise ValueError(f"a teacher's {len(self.scores.logps)} log-probabilities for {len(self.ids)} tokens")
        if self.turns and sum(turn.tokens for turn in self.turns) != len(self.ids):
            raise ValueError(f"turns of {sum(turn.tokens for turn in self.turns)} tokens for {len(self.ids)} tokens")

    @property
    def heard(self) -> tuple[tuple[int, int], ...]:
        """The tokens that an environment wrote: from, and up to (not included). Nothing is learned from them."""
        ends = list(accumulate(turn.tokens for turn in self.turns))
        return tuple(
            (end - turn.tokens, end)
            for turn, end in zip(self.turns, ends, strict=True)
            if turn.tokens and not turn.sampled
        )

    @property
    def sampled(self) -> int:
        """The number of tokens that the model wrote."""
        return len(self.ids) - sum(end - start for start, end in self.heard)

    @property
    def maker(self) -> str:
        """The source, with a provider's model. A peer's model is left out, because it is only a claim."""
        return self.source if self.model is None or self.kind is Kind.PEER else f"{self.source}:{self.model}"


@dataclass(frozen=True, slots=True)
class Group:
    """The completions for one prompt, with their scores once verified."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    scores: tuple[Score, ...] = ()
    places: tuple[int, ...] = ()
    """Each rollout's slot in the group, if some slots are empty. Default: 0, 1, 2, …"""

    def numbered(self) -> dict[int, Rollout]:
        return dict(zip(self.places or range(len(self.rollouts)), self.rollouts, strict=True))

    def scored(self) -> list[tuple[Rollout, Score]]:
        """Return each rollout with its score. Only for verified groups."""
        return list(zip(self.rollouts, self.scores, strict=True))

    def judged(self) -> Group:
        """Return the group without the completions that could not be judged. Only for verified groups."""
        if all(score.judged for score in self.scores):
            return self
        kept = [row for row in zip(self.numbered().items(), self.scores, strict=True) if row[1].judged]
        return Group(
            self.prompt,
            tuple(rollout for (_, rollout), _ in kept),
            scores=tuple(score for _, score in kept),
            places=tuple(place for (place, _), _ in kept),
        )


def encode_completion(tokenizer: PreTrainedTokenizerBase, text: str, truncated: bool) -> tuple[int, ...]:
    """Return a text's token ids, with the end-of-sequence token unless it was cut. Never empty.

    The strings of control tokens in it are encoded as text: only the end belongs to the format.
    """
    ids = encode_literally(tokenizer, literal(tokenizer, text))
    return ids if truncated and ids else (*ids, tokenizer.eos_token_id)


def control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids that are not part of a completion's text: special tokens, unless they are tags of an answer."""
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    added = tokenizer.get_added_vocab()
    return frozenset(special.union(tokenizer.all_special_ids)) - {added[tag] for tag in TAGS if tag in added}


def literal(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return a text of foreign origin in which ``encode_literally`` sees no control tokens, only their characters."""
    names = tokenizer.convert_ids_to_tokens(sorted(control_ids(tokenizer)))
    strings = sorted((name for name in names if len(name) > 1), key=len, reverse=True)
    pattern = "|".join(map(re.escape, strings)) or "(?!)"
    return re.sub(pattern, lambda mark: mark[0][0] + _BREAK + mark[0][1:], text)


def encode_literally(
    tokenizer: PreTrainedTokenizerBase, text: str, *, add_special_tokens: bool = False
) -> tuple[int, ...]:
    """Return the token ids of a text that may contain parts from ``literal``.

    ``add_special_tokens``: begin with what the tokenizer puts before every text (such as a BOS token), without an EOS
    token at the end.
    """
    first, *rest = text.split(_BREAK)
    ids = list(tokenizer.encode(first, add_special_tokens=add_special_tokens))
    while add_special_tokens and ids and ids[-1] == tokenizer.eos_token_id:  # some tokenizers end every text
        ids.pop()
    return (*ids, *(each for piece in rest for each in tokenizer.encode(piece, add_special_tokens=False)))


def decode_completion(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int]) -> str:
    """Return the text of a completion, without control tokens, and otherwise exactly as generated."""
    control = control_ids(tokenizer)
    return str(tokenizer.decode([each for each in ids if each not in control], clean_up_tokenization_spaces=False))


def answer_tokens(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str) -> range:
    """Return which tokens of a completion contain its answer and the marks around it. Empty if it has none.

    ``text``: the decoded ``ids``.
    """
    start, end = answer_span(text)
    first, last = (
        # The number of tokens whose text reaches up to the answer's first or last character.
        bisect_left(range(1, len(ids)), place, key=lambda count: len(decode_completion(tokenizer, ids[:count])))
        for place in (start + 1, end)
    )
    return range(first, last + 1) if start < end else range(0)


@dataclass(frozen=True, slots=True)
class TokensToScore:
    """A completion of this node, whose tokens an API is to score."""

    prompt: tuple[int, ...]
    """Token ids. Never empty: nothing precedes the first token of a text, so nothing predicts it."""
    completion: tuple[int, ...]
    texts: tuple[str, ...]
    """Each token of the completion as text, under this node's tokenizer."""


@dataclass(slots=True, eq=False)
class CompletionRequest:
    """An order: the slots of one group that an API must fill."""

    round: int
    stage: str
    question: str
    """The question's digest."""
    messages: tuple[Message, ...]
    indices: tuple[int, ...]
    """Slots in the group, without those that the journal already has."""
    version: int
    """The node's optimizer steps when the completions were requested."""
    scored: TokensToScore | None = None
    """What to score, if nothing is to be generated. The order then has no messages and one slot, 0."""
    refused: bool = False
    """A provider rejected this prompt, so no provider is asked again."""
    settled: int = 0
    """Slots filled or given up so far."""
    done: Future[None] = field(default_factory=Future)
    """Done when every slot is filled, given up or left to this machine. Holds an exception if the node must stop."""

    @property
    def completed(self) -> int:
        """Slots for which no API is asked any more."""
        return len(self.indices) if self.done.done() else self.settled


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion from an API, as stored in the journal. Token ids are encoded from the text when it is read."""

    index: int
    kind: Kind
    provider: str
    model: str
    text: str
    truncated: bool
    version: int | None
    """The optimizer steps behind the weights that generated it. For another model, the node's optimizer steps when the
    completion was requested. None if unknown."""
    usd: float
    """Its share of the request's cost."""
    logps: tuple[float, ...] | None = None
    """For scored tokens: the log-probabilities. The text is then empty."""


@dataclass(slots=True)
class RoundSpend:
    """One provider's usage and cost in one round."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    """Includes the reserves of requests with an unknown outcome."""
    lost: int = 0
    """Slots given up."""


def by_group(requests: Iterable[CompletionRequest]) -> dict[tuple[int, str, str], CompletionRequest]:
    """Return requests by their key: round, stage and question."""
    return {(each.round, each.stage, each.question): each for each in requests}
