"""``api``: an OpenAI-compatible API. The engine (``hivemind_exp.offload``) writes its completions to the journal."""

from dataclasses import dataclass

from hivemind_exp.offload.process.client import OffloadClient
from hivemind_exp.rollouts.types import CompletionRequest, Group
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.source import Ask, NodeParts, Source


@dataclass(eq=False)
class ApiSource(Source):
    """Requests completions early, and waits for them when they are needed."""

    name = "api"

    _offload: OffloadClient
    kind: Kind
    _version: int = 0

    def request(self, ask: Ask) -> None:
        """Request completions for the empty slots, except those that already have a request in flight."""
        run = ask.stage_run
        self._offload.submit(
            CompletionRequest(run.round, run.stage, prompt.question.digest, prompt.messages, places, self._version)
            for prompt, places in ask.empty
        )

    def collect(self, ask: Ask) -> tuple[list[Group], ...]:
        """Wait until every slot requested for the round is in the journal or given up, or until the deadline."""
        self._offload.wait(ask.stage_run.round, ask.deadline)
        self._offload.report_spend(ask.stage_run.round)
        return ()

    def set_aside(self, provider: str, why: str, command: str) -> None:
        self._offload.set_aside(provider, why, command)

    def weights_moved(self, version: int) -> None:
        """Store the version. Each request carries it, so that the age of its completions is known."""
        self._version = version


def build(parts: NodeParts) -> ApiSource | None:
    """Return the source of an API's completions; None without an API engine."""
    return None if parts.offload is None else ApiSource(parts.offload, parts.config.offload.counts_as)
