"""Requests to a service, with the most tokens that each may cost: a chat to complete, or tokens to score."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from hivemind_exp.offload.api.chat import ChatAnswer, ChatClient
from hivemind_exp.offload.api.dialect import RequestDialect, SamplingParams, most_tokens
from hivemind_exp.offload.api.scoring import ScoreAnswer, read_scores, scoring_body
from hivemind_exp.offload.prices import PromptBound
from hivemind_exp.offload.settings import SCORING_TOKENS, Endpoint
from hivemind_exp.rollouts.types import Message, TokensToScore

Answer_co = TypeVar("Answer_co", bound=ChatAnswer, covariant=True)
_BYTES_A_TOKEN = 4


class ApiRequest(Protocol[Answer_co]):
    """One request."""

    def prompt(self, added: int) -> PromptBound:
        """Return the most prompt tokens that may be billed; ``added``: what the service adds to prompts."""

    def longest(self, style: RequestDialect) -> int:
        """Return the most tokens that one choice may have."""

    def usual_prompt(self) -> int:
        """Return about how many prompt tokens a rate limit counts."""

    async def send(self, client: ChatClient) -> Answer_co:
        """Raises ``RequestFailed``."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """Asks for completions of a chat."""

    messages: tuple[Message, ...]
    count: int
    sampling: SamplingParams
    seed: int

    def _contents(self) -> Sequence[str]:
        return [message["content"] for message in self.messages]

    def prompt(self, added: int) -> PromptBound:
        return PromptBound.of(self._contents(), added)

    def longest(self, style: RequestDialect) -> int:
        return most_tokens(style, self.sampling)

    def usual_prompt(self) -> int:
        return sum(len(content.encode()) // _BYTES_A_TOKEN + 1 for content in self._contents())

    async def send(self, client: ChatClient) -> ChatAnswer:
        return await client.ask(self.messages, self.count, self.sampling, self.seed)


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Asks for the log-probabilities of tokens."""

    tokens: TokensToScore
    endpoint: Endpoint

    def prompt(self, added: int) -> PromptBound:
        return PromptBound.of_tokens(self.usual_prompt(), added)

    def longest(self, _style: RequestDialect) -> int:
        return SCORING_TOKENS

    def usual_prompt(self) -> int:
        return len(self.tokens.prompt) + len(self.tokens.completion)

    async def send(self, client: ChatClient) -> ScoreAnswer:
        answer = await client.complete_raw(scoring_body(self.endpoint, client.style, self.tokens))
        return read_scores(*answer, self.tokens)
