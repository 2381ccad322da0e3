"""The server's settings and everything it remembers."""

from __future__ import annotations

import importlib
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tests.support.fake_api.ask import Ask, Messages, default_answer
from tests.support.fake_api.faults import ODD, TRANSIENT, Fault, FaultPlan, Predicate, Trouble, as_trouble, draw
from tests.support.fake_api.ledger import Ledger
from tests.support.fake_api.limits import Limiter

if TYPE_CHECKING:
    from tests.support.fake_api.batches import Batch


@dataclass(slots=True)
class Options:
    """The server's behavior. A function may be given as ``"module:name"``, which also works for a separate process."""

    models: tuple[str, ...] = ("test-model",)
    keys: set[str] | None = None
    """Accepted keys. None: no key is needed; an empty set rejects all."""
    answer: Callable[[Messages, int], str] = default_answer
    """The text for a prompt; the index counts all choices ever generated for it."""
    latency: float | Callable[[Ask], float] = 0.0
    """Seconds between an admitted request and its answer."""
    reasoning: int = 0
    """Hidden tokens before each choice; they are billed, and ``max_completion_tokens`` counts them."""
    logprobs: bool = True
    """Whether log-probabilities are returned on request."""
    single: bool = False
    """Whether ``n`` is silently treated as 1."""
    strict: bool = False
    """Whether fields unknown to OpenAI are refused with a 422."""
    rejects: tuple[str, ...] = ()
    """Parameters that this model does not support; they are refused with a 400."""
    rpm: float | None = None
    tpm: float | None = None
    window: float = 60.0
    """Seconds over which requests and tokens are counted. A shorter window has the same rates but empties sooner."""
    charge: Literal["asked", "used"] = "asked"
    """What ``tpm`` counts for a completion: ``max_tokens`` times ``n``, like OpenAI, or its actual tokens."""
    seed: int = 0
    fault_rate: float = 0.0
    fault_kinds: tuple[Fault, ...] = TRANSIENT + ODD
    predicate: Predicate | None = None
    """Selects the fault of each request for a chat completion, before the random choice."""
    batch_delay: float | None = 0.0
    """Seconds until a batch is done; None: when ``finish_batches`` is called."""
    batch_queue: int | None = None
    """Number of batches that may be in progress; one more fails. None: any number."""
    line_faults: dict[str, Fault] = field(default_factory=dict)
    """The fault of a batch's line, by its custom_id."""
    amend: Callable[[Ask, dict[str, Any]], dict[str, Any]] | None = None
    """Changes the body of a completion just before it is sent (token ids, custom fields)."""
    vocabulary: list[str] | None = None
    """The text of each token, with which tokens are scored. None: there is no such endpoint."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            self.set(name, getattr(self, name))

    def set(self, name: str, value: Any) -> None:
        """Set one option, also from its JSON form."""
        if name in ("answer", "latency", "predicate", "amend") and isinstance(value, str):
            module, _, function = value.partition(":")
            value = getattr(importlib.import_module(module), function)
        elif name == "fault_kinds":
            value = tuple(map(Fault, value))
        elif name == "line_faults":
            value = {line: Fault(kind) for line, kind in value.items()}
        elif name == "keys" and value is not None:
            value = set(value)
        if name not in self.__slots__:
            raise TypeError(f"no such option: {name}")
        object.__setattr__(self, name, value)


class State:
    """One server's options, ledger, queues, files and batches. Used only by the server's thread."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.ledger = Ledger()
        self.plan = FaultPlan()
        self.limiter = Limiter(options.rpm, options.tpm, options.window)
        self.down = False
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, Batch] = {}
        self.batch_numbers = itertools.count()
        self._attempts: Counter[str] = Counter()
        self._indices: Counter[str] = Counter()

    def attempt(self, digest: str) -> int:
        """Return the number of earlier requests with a prompt, and count this one."""
        self._attempts[digest] += 1
        return self._attempts[digest] - 1

    def index(self, digest: str) -> int:
        """Return the number of the next choice of a prompt."""
        self._indices[digest] += 1
        return self._indices[digest] - 1

    def pick(self, endpoint: str, ask: Ask | None) -> Trouble | None:
        """Return the fault of a request."""
        options = self.options
        return self.plan.pick(
            endpoint,
            ask,
            options.predicate,
            lambda ask: draw(options.seed, options.fault_rate, options.fault_kinds, ask),
        )

    def next(self, fault: Any, times: int = 1, endpoint: str = "chat", **details: Any) -> None:
        """Make the next requests to an endpoint fail; ``details`` are a ``Trouble``'s."""
        trouble = Trouble(Fault(fault), **details) if details else as_trouble(fault)
        assert trouble is not None
        self.plan.queue(endpoint, trouble, times)

    def always(self, fault: Any, endpoint: str = "chat", **details: Any) -> None:
        """Make all requests to an endpoint fail that the queue does not cover; None ends this."""
        trouble = Trouble(Fault(fault), **details) if details else as_trouble(fault)
        if trouble is None:
            self.plan.always.pop(endpoint, None)
        else:
            self.plan.always[endpoint] = trouble

    def set(self, **values: Any) -> None:
        """Change options while the server runs. A new limit starts with an empty window."""
        for name, value in values.items():
            self.options.set(name, value)
        if {"rpm", "tpm", "window"} & set(values):
            self.limiter = Limiter(self.options.rpm, self.options.tpm, self.options.window)

    def revoke(self, key: str) -> None:
        """Revoke a key."""
        assert self.options.keys is not None
        self.options.keys.discard(key)

    def finish_batches(self, status: str = "completed", lines: int | None = None) -> None:
        """End every batch that is not over: ``completed``, ``failed``, ``expired`` or ``cancelled``.

        ``lines``: the number of lines completed before a batch expires or is cancelled; by default none.
        """
        for batch in self.batches.values():
            batch.finish(self, status, lines)

    def forget_batches(self) -> None:
        """Forget all batches."""
        self.batches.clear()
