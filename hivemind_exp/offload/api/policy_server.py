"""The interface of a server that a node pushes its adapters to, and that completes prompts of token ids with them.

One module per engine (``engines``). As in ``chat``, everything that a server sends is untrusted.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from hivemind_exp.finite_numbers import is_finite
from hivemind_exp.offload.api.faults import RequestFailed, broken
from hivemind_exp.offload.settings import Endpoint

RELOADING = "swarmctl-reloading"
"""The version of weights of which only a part may have been read."""
NO_WEIGHTS = "could not read the adapter's weights"
"""Why a server refuses an adapter in which nothing but the weights is wrong."""
LOWEST = -1e6
"""Lower log-probabilities are refused. vLLM sends -9999 for minus infinity."""
ROUNDING = 1e-3
"""Nats by which a log-probability may be above 0."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample completions. Nothing but the temperature shapes the distribution."""

    temperature: float
    max_tokens: int
    end_ids: tuple[int, ...]
    """Tokens that end a completion. They are part of it."""
    vocabulary: int
    """Token ids are below this."""


@dataclass(frozen=True, slots=True)
class SampledRow:
    """One completion, as sampled."""

    ids: tuple[int, ...]
    logps: tuple[float, ...]
    """Log-probability of each token at the sampling temperature, as far as the server is right about that."""


@dataclass(frozen=True, slots=True)
class SampledAnswer:
    """A server's completions of one prompt."""

    rows: tuple[SampledRow, ...]
    same_prompt: bool
    """Whether the server completed the tokens that it was sent. True if it does not say."""


@dataclass(frozen=True, slots=True)
class Advice:
    """How an engine is started so that it serves adapters as a node needs them. Sentences without their full stops."""

    adapters: str
    """For a server that answers with the base model."""
    most_adapters: str
    """For a server that keeps too few adapters; ``{needed}`` is how many are in use at a time."""
    sampled_logps: str
    """For a server that returns the log-probabilities of temperature 1 instead of those it sampled from."""
    precision: str
    """For a server that computes with less precise weights than the node."""
    turns: str
    """For a server that cannot sleep."""
    seeds: str
    """For a server that ignores the seed of a request."""
    reloads: str
    """For a server that cannot replace all its weights."""


class AdapterMissing(Exception):
    """The server does not have the adapter, or the version of the weights, for example because it was restarted."""


class PushFailed(Exception):
    """A server did not load an adapter. The text says why: a clause whose subject is the server."""

    def __init__(self, why: str, remedy: str | None = None, *, only_weights: bool = False) -> None:
        super().__init__(why)
        self.remedy = remedy
        """What to change on the server, as a sentence; None if unknown."""
        self.only_weights = only_weights
        """Whether the server found the adapter and accepts its shape, and only could not read its weights."""


class PolicyServer(Protocol):
    """One replica. Use it in one event loop. Requests raise ``RequestFailed`` if they bring no usable answer."""

    url: str
    advice: ClassVar[Advice]
    modules: ClassVar[tuple[str, ...]]
    """The modules in the adapter that doctor tries to load, if the node's adapters are on all linear layers."""

    def __init__(self, endpoint: Endpoint, seconds: float) -> None:
        """``seconds``: the time limit of a request. Raises ``NodeError`` if a proxy cannot be used."""
        ...

    async def base_model(self) -> str | None:
        """Return the name of the model under the adapters; None if the server does not say."""
        ...

    async def most_adapters(self) -> int | None:
        """Return how many adapters the server keeps in memory at a time; None if it does not say."""
        ...

    async def adapters(self) -> list[str]:
        """Return the names of the adapters that the server has."""
        ...

    async def load(self, name: str, folder: str) -> None:
        """Load an adapter in peft's format from a directory on the server.

        Raises ``PushFailed``, with ``only_weights`` if nothing but the weights is missing: doctor loads an adapter
        without weights to see whether the server would take one.
        """
        ...

    async def unload(self, name: str) -> None:
        """Unload an adapter. One that the server does not have is not an error."""
        ...

    async def reload_problem(self) -> str | None:
        """Return why the server cannot replace all its weights, as a sentence that names the flag; None if it can.

        Changes nothing.
        """
        ...

    async def reload(self, name: str, folder: str) -> None:
        """Replace all weights by those of a checkpoint in a directory on the server.

        It then has ``name`` as the version of its weights. While it reloads, and if it fails, it has no version that a
        push ever had. Requests in flight are completed before. Raises ``PushFailed``.
        """
        ...

    async def is_asleep(self) -> bool | None:
        """Return whether the server sleeps; None if it has no interface for that.

        Raises ``RequestFailed`` with the HTTP status 409 if nobody knows, because a node was killed meanwhile; then
        ``sleep`` and ``wake`` raise the same. Restarting the server helps.
        """
        ...

    async def sleep(self) -> None:
        """Give the GPU's memory back, except for what the process itself needs. No request may be in flight.

        Raises ``RequestFailed``, with the HTTP status 404 if the server cannot sleep.
        """
        ...

    async def wake(self) -> None:
        """Take the memory again; adapters are still there. One that is awake stays so."""
        ...

    async def complete(
        self, adapter: str, prompt: Sequence[int], count: int, sampling: Sampling, seed: int
    ) -> SampledAnswer:
        """Return ``count`` completions by an adapter, or by the model under the adapters if its name is given.

        The same seed brings the same completions, if the server heeds it. Raises ``AdapterMissing``.
        """
        ...

    async def complete_whole(
        self, version: str, prompt: Sequence[int], count: int, sampling: Sampling, seed: int
    ) -> SampledAnswer:
        """Return ``count`` completions by a version of the whole weights.

        Raises ``AdapterMissing`` if the server did not have that version all the time, and ``PushFailed`` if it does
        not say which version it had.
        """
        ...

    async def logps_at(self, model: str, prompt: Sequence[int], temperature: float) -> dict[Any, float]:
        """Return the log-probabilities of the likeliest next tokens, sampled at a temperature.

        The keys are the server's, and are only compared with those of another call.
        """
        ...

    async def close(self) -> None: ...


Causes = Sequence[tuple[str, str, str | None]]
"""What an engine says when it does not load weights (a pattern), what that means, and what helps."""


def explain(fault: RequestFailed, causes: Causes) -> PushFailed:
    """Return why a server did not load weights, and what helps."""
    for pattern, why, remedy in causes:
        found = re.search(pattern, fault.detail, re.IGNORECASE)
        if found:
            text = f"{why.format(*found.groups())} ({fault.detail})"
            return PushFailed(text, remedy, only_weights=why == NO_WEIGHTS)
    return PushFailed(f"did not load the weights ({fault.detail})")


def checked_row(ids: Any, logps: Any, sampling: Sampling) -> SampledRow:
    """Return a row of an answer. Raises ``RequestFailed`` if it is not one."""
    if not isinstance(ids, list) or not isinstance(logps, list):
        raise broken("the answer has no token ids or no log-probabilities")
    if not ids or len(ids) != len(logps):
        raise broken(f"the answer has {len(logps)} log-probabilities for {len(ids)} tokens")
    if any(type(each) is not int or not 0 <= each < sampling.vocabulary for each in ids):
        raise broken("the answer has token ids that this node's tokenizer does not have")
    if not all(_is_logp(each) for each in logps):
        raise broken("the answer has log-probabilities that are not numbers between minus infinity and 0")
    if len(ids) > sampling.max_tokens:
        raise broken(f"a completion has {len(ids)} tokens, more than the {sampling.max_tokens} that were allowed")
    return SampledRow(tuple(ids), tuple(min(0.0, float(each)) for each in logps))


def _is_logp(value: Any) -> bool:
    return is_finite(value) and LOWEST <= value <= ROUNDING
