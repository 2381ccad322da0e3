"""Text that says the same again: copies of others' completions, and one text for ever new questions.

Only long text is looked at: short right answers are alike because they are right. All of it is linear in the text.
"""

import hashlib
import re
import zlib
from collections import Counter, deque
from collections.abc import Sequence

from hivemind_exp.bounded import BoundedDict

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
