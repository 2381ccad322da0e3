"""What a peer's group must be like before it is verified, and before it is learned from.

Whatever is wrong is raised as ``RejectedGroup``: with a fault, where no honest node of the swarm would send it.
"""

from __future__ import annotations

import hashlib
import re
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hivemind_exp.bounded import BoundedDict
from hivemind_exp.errors import TaskError
from hivemind_exp.peers.bundle import Offer
from hivemind_exp.rollouts.types import Group, Kind, Prompt, Rollout, encode_completion
from hivemind_exp.tasks.base import Question, Score, Tasks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


LONG = 200
"""Characters from which equal text is no coincidence."""
MOST_COPIES = 20_000
"""Texts that are remembered, the latest."""
RECENT = 32
"""Long texts of one peer that a new one is compared with."""
MOST_PEERS = 256
"""Peers whose texts are remembered, those heard of last."""
ALIKE = 0.8
"""Share of shingles in common (Jaccard) from which two texts are nearly the same."""
_SKETCH = 64
"""Shingles kept of a text, those of lowest hash: comparing two sketches estimates the Jaccard similarity (Broder
1997)."""
_SHINGLE = 4
"""Words of a shingle."""
SQUEEZED = 0.1
"""Compressed part of a text below which it is hardly more than a repetition."""
_WORDS = re.compile(r"\w+|[^\w\s]")

Sketch = frozenset[int]


def is_repetition(text: str) -> bool:
    """Whether a long text is the same few words again and again."""
    if len(text) < LONG:
        return False
    raw = text.encode("utf-8", "replace")
    return len(zlib.compress(raw, 1)) < SQUEEZED * len(raw)


def sketch(text: str) -> Sketch:
    """Return what tells whether two texts are nearly the same."""
    words = _WORDS.findall(text.casefold())
    seen: Counter[str] = Counter()
    shingles = []
    for start in range(max(1, len(words) - _SHINGLE + 1)):
        shingle = " ".join(words[start : start + _SHINGLE])
        seen[shingle] += 1
        # Each time counts: of a text that repeats itself, the part that does not would weigh too much.
        shingles.append(f"{seen[shingle]} {shingle}")
    hashes = sorted(int.from_bytes(hashlib.blake2b(each.encode(), digest_size=8).digest(), "big") for each in shingles)
    return frozenset(hashes[:_SKETCH])


def likeness(one: Sketch, other: Sketch) -> float:
    """Return the estimated Jaccard similarity of two texts, in [0, 1]."""
    lowest = sorted(one | other)[:_SKETCH]
    return sum(each in one and each in other for each in lowest) / max(1, len(lowest))


class SeenTexts:
    """What was seen lately, bounded in peers and texts."""

    def __init__(self) -> None:
        self._whose: BoundedDict[bytes, str] = BoundedDict(MOST_COPIES)
        self._texts: BoundedDict[str, deque[tuple[str, Sketch]]] = BoundedDict(MOST_PEERS)

    def is_copied(self, peer: str, question: str, texts: Sequence[str]) -> bool:
        """Whether most of the long texts among these came from somebody else before. Remembers those that did not."""
        long = {text for text in texts if len(text) >= LONG}
        copies = 0
        for text in long:
            name = hashlib.blake2b(f"{question}\0{text}".encode("utf-8", "replace"), digest_size=16).digest()
            copies += self._whose.setdefault(name, peer) != peer
        return 2 * copies > len(long)

    def is_said_again(self, peer: str, question: str, text: str) -> bool:
        """Whether a peer said nearly the same of another question. Remembers it."""
        if len(text) < LONG:
            return False
        recent = self._texts.setdefault(peer, deque(maxlen=RECENT))
        new = sketch(text)
        known = any(asked != question and likeness(new, old) >= ALIKE for asked, old in recent)
        recent.append((question, new))
        return known


PART_OF_A_PEER = 8
"""One peer fills at most one in so many groups of a batch: right answers can carry poison."""
PART_OF_AN_OPEN_SWARM = 4
"""All peers of an open swarm together fill at most one in so many: identities are free."""
CHARACTERS_A_TOKEN = 16
"""Text with more characters than this for each token it may have is not even tokenised."""
TIE = 1e-6
"""Standard deviation of rewards below which a group says nothing."""
MOST_USED = 20_000
"""Groups that are remembered as used, the latest."""

Used = tuple[str, int, str]
"""A group that was used: peer, its round, the question's digest."""


class RejectedGroup(Exception):
    """A group or bundle is of no use. ``why`` is ours: nothing of a peer's words stands in it."""

    def __init__(self, why: str, *, fault: bool = False, skew: bool = False) -> None:
        super().__init__(why)
        self.why, self.fault, self.skew = why, fault, skew


@dataclass(frozen=True, slots=True)
class PeerRules:
    """Who this node is to its peers, how much it draws, and of what shape groups are, its own too."""

    swarm: str
    """Id of the charter."""
    me: str
    """This node's peer id: its own bundles may come back to it."""
    stage: str
    group_size: int
    local: int
    """I: groups of a batch that this node samples."""
    external: int
    """J: groups of a batch that are drawn from peers, where there are so many."""
    longest: int
    """Tokens of a completion."""
    open: bool = False
    """Anybody may join the swarm."""
    with_logps: bool = False
    """Groups are shared with token ids and log-probabilities, and only such are of use."""
    model: str = ""
    """Name of the node's own model."""

    @property
    def quota(self) -> int:
        """Groups of one peer in a batch."""
        return max(1, (self.local + self.external) // PART_OF_A_PEER)

    @property
    def wanted(self) -> int:
        """Groups of all peers in a batch."""
        if not self.open:
            return self.external
        return min(self.external, max(1, (self.local + self.external) // PART_OF_AN_OPEN_SWARM))


class Vetting:
    """Looks at groups one by one. Remembers what was said before."""

    def __init__(self, rules: PeerRules, texts: PeerTexts, questions: QuestionCache) -> None:
        self._rules, self._texts, self._questions = rules, texts, questions
        self._memory = SeenTexts()
        self._used: BoundedDict[Used, None] = BoundedDict(MOST_USED)

    def remember_own(self, groups: Sequence[Group]) -> None:
        """Take note of what this node wrote itself: who sends it as theirs has copied it."""
        for group in groups:
            texts = [rollout.text for rollout in group.rollouts]
            self._memory.is_copied(self._rules.me, group.prompt.question.digest, texts)

    def remember_used(self, groups: Iterable[Used]) -> None:
        """Take note of groups that must not be used again, those of an earlier life of the node too."""
        self._used.update(dict.fromkeys(groups))

    def is_used(self, offer: Offer) -> bool:
        """Whether a peer's answers to this question of this round were looked at before, however they are sent."""
        return (offer.peer, offer.round, offer.group.question) in self._used

    def prepare(self, offer: Offer) -> Group:
        """Return the group under this node's prompt and tokens, not verified yet. Raises ``RejectedGroup``."""
        group, rules = offer.group, self._rules
        if len(group.texts) != rules.group_size:
            raise RejectedGroup("no whole group", fault=True)
        if any(len(text) > CHARACTERS_A_TOKEN * rules.longest for text in group.texts):
            raise RejectedGroup("far too long", fault=True)
        if rules.with_logps and not group.ids:
            raise RejectedGroup("no log-probabilities")
        self.remember_used([(offer.peer, offer.round, group.question)])
        prompt = self._texts.build_prompt(self._question(offer))
        if len(prompt.ids) > self._texts.longest_prompt:
            raise RejectedGroup("its prompt is longer than here")
        if self._memory.is_copied(offer.peer, group.question, group.texts):
            raise RejectedGroup("copied from another")
        rows = zip(group.texts, self._ids(offer), group.cut, strict=True)
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

    def check_reward_spread(self, offer: Offer, scores: Sequence[Score]) -> None:
        """Raise ``RejectedGroup`` where nothing can be learned from a verified group, or nothing good."""
        outcomes = [score.outcome for score in scores]
        mean = sum(outcomes) / len(outcomes)
        if max(outcomes) - min(outcomes) < TIE:
            raise RejectedGroup("no difference in rewards")
        better = [text for text, outcome in zip(offer.group.texts, outcomes, strict=True) if outcome > mean]
        if any(is_repetition(text) for text in better):
            raise RejectedGroup("repetition", fault=True)
        again = [self._memory.is_said_again(offer.peer, offer.group.question, text) for text in better]
        if any(again):
            raise RejectedGroup("said of another question before", fault=True)

    def _question(self, offer: Offer) -> Question:
        group = offer.group
        if group.index >= self._questions.furthest:
            raise RejectedGroup("too far along its round", fault=True)
        try:
            question = self._questions.at(offer.round, group.index)
        except TaskError:
            raise RejectedGroup("its question cannot be made") from None
        if question is None:
            raise RejectedGroup("its question is held out here")
        if (question.digest, question.task) != (group.question, group.task):
            raise RejectedGroup("another question than ours", skew=True)
        return question

    def _ids(self, offer: Offer) -> list[tuple[int, ...]]:
        """Return token ids for each completion: of the text, or the peer's own where they are that very text."""
        group = offer.group
        if self._rules.with_logps:
            found = [
                ids if self._texts.text(ids) == text else None for ids, text in zip(group.ids, group.texts, strict=True)
            ]
        else:
            found = [self._texts.ids(text, cut) for text, cut in zip(group.texts, group.cut, strict=True)]
        rows = [row for row in found if row is not None]
        if len(rows) < len(found):
            raise RejectedGroup("tokens that are not those of a completion")
        if max(len(row) for row in rows) > self._rules.longest:
            raise RejectedGroup("longer than here")
        return rows


ROUNDS = 64
"""Rounds whose questions are remembered."""


class QuestionCache:
    """Makes questions by round and place, and counts the time: some take a fifth of a second each."""

    def __init__(self, tasks: Tasks, furthest: int) -> None:
        """``furthest``: places of a round that are made at most: no node goes further along it."""
        self._tasks, self.furthest = tasks, furthest
        self._rounds: BoundedDict[int, tuple[int, Mapping[int, Question]]] = BoundedDict(ROUNDS)
        """By round: how many places were made, and the questions of those that have one."""
        self.seconds = 0.0
        """Time spent so far."""

    def is_known(self, round_: int, index: int) -> bool:
        """Whether the question of a place was made before."""
        return index < self._rounds.get(round_, (0, {}))[0]

    def at(self, round_: int, index: int) -> Question | None:
        """Return the question of a place; None where there is none, as it is held out here.

        Raises ``TaskError`` where it cannot be made.
        """
        made, questions = self._rounds.get(round_, (0, {}))
        if index >= made:
            begun = time.monotonic()
            try:
                # Places that are held out here are left out, so the first ``made`` questions reach at least that far.
                made = index + 1
                questions = {each.index: each for each in self._tasks.questions("train", round_, made)}
            finally:
                self.seconds += time.monotonic() - begun
        self._rounds[round_] = made, questions  # also where it is known: it was asked for just now
        return questions.get(index)


@dataclass(eq=False)
class PeerTexts:
    """This node's tokenizer, as far as peers' text needs it."""

    tokenizer: PreTrainedTokenizerBase
    build_prompt: Callable[[Question], Prompt]
    longest_prompt: int
    """Tokens of a prompt that this node takes."""

    def __post_init__(self) -> None:
        self._control = frozenset(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}

    def ids(self, text: str, cut: bool) -> tuple[int, ...] | None:
        """Return the token ids of a completion; None where the text names control tokens.

        A completion is decoded without those, so in text they are somebody's attempt to end the turn and begin
        another.
        """
        found = encode_completion(self.tokenizer, text, cut)
        said = found if found[-1] != self.tokenizer.eos_token_id else found[:-1]
        return found if self._control.isdisjoint(said) else None

    def text(self, ids: Sequence[int]) -> str | None:
        """Return the text of a completion's token ids; None where some are no tokens of this node, or control ones
        before the end."""
        if not all(0 <= token < len(self.tokenizer) for token in ids) or not self._control.isdisjoint(ids[:-1]):
            return None
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
