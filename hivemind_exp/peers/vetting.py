"""Checks that a peer's group must pass before it is verified, and before this node learns from it.

Every failed check raises ``RejectedGroup``. It counts as the peer's fault if no honest node of the swarm would send
such a group.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hivemind_exp.bounded import BoundedDict
from hivemind_exp.errors import TaskError
from hivemind_exp.game.prompt_style import TAGS_STYLE, PromptStyle
from hivemind_exp.peers.bundle import Offer
from hivemind_exp.peers.questions import QuestionCache
from hivemind_exp.rollouts.types import (
    Group,
    Prompt,
    Rollout,
    answer_tokens,
    control_ids,
    decode_completion,
    encode_completion,
    literal,
)
from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.base import Question, Score
from hivemind_exp.tasks.verifiers.reader import answer_span, is_marked, reference_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


ALL_WRONG = "all completions wrong"
"""Why a group teaches nothing."""
LONG = 200
"""Length in characters from which equal texts are no coincidence."""
MOST_COPIES = 20_000
"""Maximum number of texts remembered, the latest ones."""
RECENT = 32
"""Maximum number of a peer's long texts, the latest ones, that a new one is compared with."""
MOST_PEERS = 256
"""Maximum number of peers whose texts are remembered, the most recent ones."""
ALIKE = 0.8
"""Share of common shingles (Jaccard) from which two texts count as nearly the same."""
_SKETCH = 64
"""Shingles kept per text: those with the lowest hashes. Comparing two such sketches estimates the Jaccard similarity
(Broder 1997)."""
_SHINGLE = 4
"""Words per shingle."""
SQUEEZED = 0.1
"""Compressed size, as a fraction of the text's size, below which a text is little more than repetition."""
_WORDS = re.compile(r"\w+|[^\w\s]")

Sketch = frozenset[int]


def is_repetition(text: str) -> bool:
    """Return whether a long text repeats the same few words over and over."""
    if len(text) < LONG:
        return False
    raw = text.encode("utf-8", "replace")
    return len(zlib.compress(raw, 1)) < SQUEEZED * len(raw)


def sketch(text: str) -> Sketch:
    """Return a sketch of a text, for ``likeness``."""
    words = _WORDS.findall(text.casefold())
    seen: Counter[str] = Counter()
    shingles = []
    for start in range(max(1, len(words) - _SHINGLE + 1)):
        shingle = " ".join(words[start : start + _SHINGLE])
        seen[shingle] += 1
        # Count every occurrence. Otherwise the unique part of a repetitive text would weigh too much.
        shingles.append(f"{seen[shingle]} {shingle}")
    hashes = sorted(int.from_bytes(hashlib.blake2b(each.encode(), digest_size=8).digest(), "big") for each in shingles)
    return frozenset(hashes[:_SKETCH])


def likeness(one: Sketch, other: Sketch) -> float:
    """Return the estimated Jaccard similarity of two texts, in [0, 1]."""
    lowest = sorted(one | other)[:_SKETCH]
    return sum(each in one and each in other for each in lowest) / max(1, len(lowest))


class SeenTexts:
    """Remembers recent texts. Bounded in peers and texts."""

    def __init__(self) -> None:
        self._whose: BoundedDict[bytes, str] = BoundedDict(MOST_COPIES)
        self._texts: BoundedDict[str, deque[tuple[str, Sketch]]] = BoundedDict(MOST_PEERS)

    def is_copied(self, peer: str, question: str, texts: Sequence[str]) -> bool:
        """Return whether most of the long texts among these came from another node earlier. Remembers the others."""
        long = {text for text in texts if len(text) >= LONG}
        copies = 0
        for text in long:
            name = hashlib.blake2b(f"{question}\0{text}".encode("utf-8", "replace"), digest_size=16).digest()
            copies += self._whose.setdefault(name, peer) != peer
        return 2 * copies > len(long)

    def is_said_again(self, peer: str, question: str, text: str) -> bool:
        """Return whether a peer sent nearly the same long text for another question. Remembers the text."""
        if len(text) < LONG:
            return False
        recent = self._texts.setdefault(peer, deque(maxlen=RECENT))
        new = sketch(text)
        known = any(asked != question and likeness(new, old) >= ALIKE for asked, old in recent)
        recent.append((question, new))
        return known


PART_OF_A_PEER = 8
"""One peer fills at most one in this many of a batch's groups: even correct answers can carry poisoned text."""
PART_OF_AN_OPEN_SWARM = 4
"""In an open swarm, all peers together fill at most one in this many groups: identities are free."""
CHARACTERS_A_TOKEN = 16
"""Text with more characters than this per allowed token is rejected before it is tokenized."""
TIE = 1e-6
"""Difference between the highest and lowest reward below which all count as equal, so the group has no advantage."""
MOST_IN_ANSWER = 16
"""Characters that an answer may have beyond twice the length of the reference. Some verifiers find the right answer in
a longer text, and the likelihood filter does not look inside answers."""
MOST_USED = 20_000
"""Maximum number of groups remembered as used, the latest ones."""

Used = tuple[str, int, str]
"""A used group: the peer, its round and the question's digest."""


class RejectedGroup(Exception):
    """A group or bundle is rejected. ``why`` never quotes the peer's text."""

    def __init__(self, why: str, *, fault: bool = False, skew: bool = False) -> None:
        super().__init__(why)
        self.why, self.fault, self.skew = why, fault, skew


@dataclass(frozen=True, slots=True)
class PeerRules:
    """This node's identity in the swarm, how much it draws, and the shape of all groups, its own included."""

    swarm: str
    """The charter's id."""
    me: str
    """This node's peer id. Its own bundles may come back to it."""
    stage: str
    group_size: int
    local: int
    """I: groups per batch that this node samples."""
    external: int
    """J: groups per batch that are drawn from peers, if enough are available."""
    longest: int
    """Maximum number of tokens in a completion."""
    open: bool = False
    """Anyone may join the swarm."""
    with_logps: bool = False
    """Groups are shared with token ids and log-probabilities. Groups without them are rejected."""
    needs_spread: bool = False
    """A group whose rewards are all equal teaches nothing. If false, it does unless all its completions are wrong."""
    model: str = ""
    """The name of this node's model."""
    levels: Mapping[str, int] | None = None
    """The number of levels of difficulty that the charter lists for each task. None: it allows no curriculum, so the
    round and the index determine the task."""

    @property
    def quota(self) -> int:
        """Maximum number of groups from one peer in a batch."""
        return max(1, (self.local + self.external) // PART_OF_A_PEER)

    @property
    def wanted(self) -> int:
        """Maximum number of groups from all peers in a batch."""
        if not self.open:
            return self.external
        return min(self.external, max(1, (self.local + self.external) // PART_OF_AN_OPEN_SWARM))


class Vetting:
    """Checks groups one by one. Remembers earlier texts and used groups."""

    def __init__(self, rules: PeerRules, texts: PeerTexts, questions: QuestionCache) -> None:
        self._rules, self._texts, self._questions = rules, texts, questions
        self._memory = SeenTexts()
        self._used: BoundedDict[Used, None] = BoundedDict(MOST_USED)

    def remember_own(self, groups: Sequence[Group]) -> None:
        """Remember this node's own texts, so that copies sent by peers are recognized."""
        for group in groups:
            texts = [rollout.text for rollout in group.rollouts]
            self._memory.is_copied(self._rules.me, group.prompt.question.digest, texts)

    def remember_used(self, groups: Iterable[Used]) -> None:
        """Remember groups that must not be used again, including those from before a restart."""
        self._used.update(dict.fromkeys(groups))

    def is_used(self, offer: Offer) -> bool:
        """Return whether a peer's group for this question and round was checked before, in whatever bundle it came."""
        return (offer.peer, offer.round, offer.group.question) in self._used

    def prepare(self, offer: Offer) -> Group:
        """Return the group, not yet verified, with this node's prompt and token ids. Raises ``RejectedGroup``."""
        group, rules = offer.group, self._rules
        if len(group.texts) != rules.group_size:
            raise RejectedGroup("wrong number of completions", fault=True)
        if any(len(text) > CHARACTERS_A_TOKEN * rules.longest for text in group.texts):
            raise RejectedGroup("text far too long", fault=True)
        if rules.with_logps and not group.ids:
            raise RejectedGroup("log-probabilities missing")
        self.remember_used([(offer.peer, offer.round, group.question)])
        question = self._question(offer)
        prompt = self._texts.build_prompt(question)
        if len(prompt.ids) > self._texts.longest_prompt:
            raise RejectedGroup("prompt longer than this node's limit")
        if self._memory.is_copied(offer.peer, group.question, group.texts):
            raise RejectedGroup("copied from another node")
        texts = self._styled(offer, question)
        rows = zip(texts, self._ids(offer, texts), group.cut, strict=True)
        rollouts = tuple(
            Rollout(
                kind=Kind.PEER,
                source=offer.peer,
                text=text,
                ids=ids,
                truncated=cut,
                lag=None,
                model=group.label or None,
                behaviour_logps=group.logps[place] if rules.with_logps else None,
            )
            for place, (text, ids, cut) in enumerate(rows)
        )
        return Group(prompt, rollouts)

    def check_rewards(self, offer: Offer, group: Group, scores: Sequence[Score]) -> None:
        """Raise ``RejectedGroup`` if a verified group would teach nothing, or something harmful."""
        outcomes = [score.outcome for score in scores]
        if max(outcomes) < TIE:
            raise RejectedGroup(ALL_WRONG)
        if self._rules.needs_spread and max(outcomes) - min(outcomes) < TIE:
            raise RejectedGroup("all rewards equal")
        mean = sum(outcomes) / len(outcomes)
        better = [text for text, outcome in zip(offer.group.texts, outcomes, strict=True) if outcome > mean - TIE]
        learned = [row.text for row, outcome in zip(group.rollouts, outcomes, strict=True) if outcome > mean - TIE]
        reference = reference_of(group.prompt.question.entry)
        if reference is not None and any(_is_padded(text, reference) for text in learned):
            raise RejectedGroup("answer with other text in it")
        if any(is_repetition(text) for text in better):
            raise RejectedGroup("repetitive text", fault=True)
        again = [self._memory.is_said_again(offer.peer, offer.group.question, text) for text in better]
        if any(again):
            raise RejectedGroup("same text as for another question", fault=True)

    def _question(self, offer: Offer) -> Question:
        group = offer.group
        if group.index >= self._questions.furthest:
            raise RejectedGroup("question index out of range", fault=True)
        if group.level is not None and group.level >= (self._rules.levels or {}).get(group.task, 0):
            raise RejectedGroup("level of difficulty that the charter does not list", fault=True)
        if self._rules.levels is not None and group.task not in self._rules.levels:
            raise RejectedGroup("task that the charter does not list", fault=True)
        try:
            question = self._questions.of(offer.round, group)
        except TaskError:
            raise RejectedGroup("question cannot be generated") from None
        if question is None:
            raise RejectedGroup("question is held out on this node")
        if (question.digest, question.task) != (group.question, group.task):
            raise RejectedGroup("question differs from this node's", skew=True)
        return question

    def _styled(self, offer: Offer, question: Question) -> list[str]:
        """Return each completion's text in this node's prompt style."""
        group, reference = offer.group, reference_of(question.entry)
        found = [
            text if cut and not is_marked(text) else self._texts.style.adopt(text, reference)
            for text, cut in zip(group.texts, group.cut, strict=True)
        ]
        texts = [text for text in found if text is not None]
        if len(texts) < len(found):
            raise RejectedGroup("prompt style that cannot be converted to this node's")
        if self._rules.with_logps and texts != list(group.texts):
            raise RejectedGroup("log-probabilities of another prompt style")
        return texts

    def _ids(self, offer: Offer, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Return each completion's token ids: encoded from the text, or the peer's if they decode to that text."""
        group = offer.group
        if self._rules.with_logps:
            found = [ids if self._texts.text(ids) == text else None for ids, text in zip(group.ids, texts, strict=True)]
        else:
            found = [self._texts.ids(text, cut) for text, cut in zip(texts, group.cut, strict=True)]
        rows = [row for row in found if row is not None]
        if len(rows) < len(found):
            raise RejectedGroup("invalid completion tokens")
        if max(len(row) for row in rows) > self._rules.longest:
            raise RejectedGroup("completion longer than this node's limit")
        return rows


def _is_padded(text: str, reference: str) -> bool:
    start, end = answer_span(text)
    return end - start - len("<answer></answer>") > MOST_IN_ANSWER + 2 * len(reference)


@dataclass(eq=False)
class PeerTexts:
    """Encodes and decodes peers' text with this node's tokenizer."""

    tokenizer: PreTrainedTokenizerBase
    build_prompt: Callable[[Question], Prompt]
    longest_prompt: int
    """Maximum number of tokens in a prompt on this node."""
    style: PromptStyle = TAGS_STYLE
    """This node's way of asking. Peers have their own."""

    def __post_init__(self) -> None:
        self._control = control_ids(self.tokenizer) - {self.tokenizer.unk_token_id}

    def ids(self, text: str, cut: bool) -> tuple[int, ...] | None:
        """Return the token ids of a completion, or None if the text contains control tokens.

        Completions are decoded without control tokens. Text that contains them tries to end the turn and start
        another.
        """
        if literal(self.tokenizer, text) != text:
            return None
        found = encode_completion(self.tokenizer, text, cut)
        said = found if found[-1] != self.tokenizer.eos_token_id else found[:-1]
        return found if self._control.isdisjoint(said) else None

    def answer(self, ids: Sequence[int], text: str) -> range:
        """Return which tokens of a completion contain its answer."""
        return answer_tokens(self.tokenizer, ids, text)

    def text(self, ids: Sequence[int]) -> str | None:
        """Return the text of a completion's token ids.

        None if this node's tokenizer lacks one of them, or one before the last is a control token.
        """
        if not all(0 <= token < len(self.tokenizer) for token in ids) or not self._control.isdisjoint(ids[:-1]):
            return None
        return decode_completion(self.tokenizer, ids)
