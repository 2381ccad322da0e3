"""The server's ledger: requests, answers, and what a real service would bill."""

from __future__ import annotations

import copy
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from tests.support.fake_api.ask import Messages
from tests.support.fake_api.faults import Fault


class Outcome(StrEnum):
    """How a request ended."""

    PENDING = "pending"
    DELIVERED = "delivered"  # a complete answer was sent, however odd
    REFUSED = "refused"  # an error was sent, or the connection was closed; nothing was generated
    BROKEN = "broken"  # generated, but the server corrupted it in transit
    ABANDONED = "abandoned"  # the client disconnected before the answer was sent


@dataclass(slots=True)
class Entry:
    """One request, or one line of a batch."""

    id: str
    endpoint: str
    """``chat``, ``score``, ``models``, ``files``, ``content``, ``batches`` or ``batch_line``."""
    started: float
    """Unix time, as is ``ended``."""
    key: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    """As sent, with lower-case names, without the key."""
    model: str = ""
    messages: Messages = field(default_factory=list)
    digest: str = ""
    """Of the messages; see ``ask.digest``."""
    n: int = 0
    parameters: dict[str, Any] = field(default_factory=dict)
    """The rest of the body."""
    batch: str | None = None
    fault: Fault | None = None
    outcome: Outcome = Outcome.PENDING
    status: int | None = None
    prompt_tokens: int = 0
    """As billed, like ``completion_tokens``: 0 for refused requests."""
    completion_tokens: int = 0
    texts: list[str] = field(default_factory=list)
    """The contents generated for this request, in the order of its choices; null contents are left out."""
    ended: float | None = None

    def bill(self, texts: list[str], prompt_tokens: int, completion_tokens: int) -> None:
        """Record the generated texts and their cost."""
        self.texts, self.prompt_tokens, self.completion_tokens = texts, prompt_tokens, completion_tokens


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The ledger at one moment."""

    entries: tuple[Entry, ...]
    peak: int
    """The most requests that were open at the same time."""

    def where(self, keep: Callable[[Entry], bool]) -> Snapshot:
        """Return the ledger of the selected entries."""
        return Snapshot(tuple(filter(keep, self.entries)), self.peak)

    @property
    def chats(self) -> tuple[Entry, ...]:
        """The requests for chat completions, in order of arrival."""
        return tuple(entry for entry in self.entries if entry.endpoint == "chat")

    @property
    def scores(self) -> tuple[Entry, ...]:
        """The requests for log-probabilities, in order of arrival."""
        return tuple(entry for entry in self.entries if entry.endpoint == "score")

    def outcomes(self) -> Counter[str]:
        """Return how many entries ended in each way."""
        return Counter(str(entry.outcome) for entry in self.entries)

    def faults(self) -> Counter[str]:
        """Return how often each fault happened."""
        return Counter(str(entry.fault) for entry in self.entries if entry.fault)

    def texts(self, *outcomes: Outcome) -> dict[str, list[str]]:
        """Return the texts sent for each prompt (by digest), complete or with one of ``outcomes``."""
        texts: dict[str, list[str]] = defaultdict(list)
        for entry in self.entries:
            if entry.outcome in (outcomes or (Outcome.DELIVERED,)):
                texts[entry.digest].extend(entry.texts)
        return dict(texts)

    @property
    def prompt_tokens(self) -> int:
        """All prompt tokens billed."""
        return sum(entry.prompt_tokens for entry in self.entries)

    @property
    def completion_tokens(self) -> int:
        """All completion tokens billed, hidden reasoning included."""
        return sum(entry.completion_tokens for entry in self.entries)

    def usd(self, price_in: float, price_out: float, batch_share: float = 0.5) -> float:
        """Return the bill, from dollars per million tokens and the fraction of that price for batches."""
        return (
            sum(
                (entry.prompt_tokens * price_in + entry.completion_tokens * price_out)
                * (batch_share if entry.batch else 1.0)
                for entry in self.entries
            )
            / 1e6
        )

    def to_json(self) -> dict[str, Any]:
        """Return what ``from_json`` reads."""
        return {"peak": self.peak, "entries": [asdict(entry) for entry in self.entries]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Snapshot:
        """Return the ledger that another process kept."""
        return cls(tuple(map(_entry, data["entries"])), data["peak"])


def _entry(data: dict[str, Any]) -> Entry:
    fault = Fault(data["fault"]) if data["fault"] else None
    return Entry(**{**data, "fault": fault, "outcome": Outcome(data["outcome"])})


class Ledger:
    """Keeps the ledger. Used only by the server's thread."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._open = 0
        self._peak = 0

    def open(self, endpoint: str, **known: Any) -> Entry:
        """Record the arrival of a request."""
        entry = Entry(f"req_{len(self._entries):06d}", endpoint, time.time(), **known)
        self._entries.append(entry)
        self._open += 1
        self._peak = max(self._peak, self._open)
        return entry

    def close(self, entry: Entry, outcome: Outcome, status: int | None = None) -> None:
        """Record how a request ended; a later call corrects an earlier one."""
        self._open -= entry.outcome is Outcome.PENDING
        entry.outcome, entry.ended = outcome, time.time()
        entry.status = status or entry.status

    def snapshot(self) -> Snapshot:
        """Return a copy that no later request changes."""
        return Snapshot(tuple(map(copy.copy, self._entries)), self._peak)
