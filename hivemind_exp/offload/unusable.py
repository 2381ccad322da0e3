"""Paid answers without a usable text: what is wrong with them, an example, and the setting to change.

Also the test request's question, and what is wrong with the text of its answer.
"""

from dataclasses import dataclass

from hivemind_exp.foreign_text import foreign
from hivemind_exp.offload.api.chat import ChatAnswer, Choice
from hivemind_exp.offload.api.dialect import RequestDialect, SamplingParams, most_tokens
from hivemind_exp.rollouts.types import Message
from hivemind_exp.tasks.verifiers.answer_tags import INSTRUCTION
from hivemind_exp.tasks.verifiers.reader import is_marked, read

TEST_MESSAGES: tuple[Message, ...] = (
    {"role": "system", "content": INSTRUCTION},
    {"role": "user", "content": "What is 2 + 3?"},
)
"""A question like those in a round, so that the test request shows the same problems."""
TEST_ANSWER = "5"
TEST_QUESTION = f'the test question ("{TEST_MESSAGES[-1]["content"]}")'
_UNLESS = ", unless this model was trained for other questions only"
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Shortcoming:
    """Why an answer, or a completion, cannot be used."""

    what: str
    """A clause whose subject is the answer."""
    example: str
    """The start of the text received instead, quoted; may be empty."""
    advice: str
    """Which setting helps, for people."""
    command: str
    """The command to suggest."""

    def __str__(self) -> str:
        return self.what + (f", for example {self.example}" if self.example else "")


def quoted_start(text: str) -> str:
    """Return the start of a service's text in quotation marks, on one line."""
    return foreign(text, _SHOWN) if text.strip() else "an empty text"


def unusable(answer: ChatAnswer, style: RequestDialect, sampling: SamplingParams, name: str) -> Shortcoming | None:
    """Return why none of an answer's choices has a usable text; None if one has. ``name``: the provider's."""
    if any(choice.usable for choice in answer.choices):
        return None
    another = f"swarmctl models {name}"
    choose = f"If that happens often, choose another model ({sampling.table}.model)"
    if not answer.choices:
        return Shortcoming("it has no choices", "", choose, another)
    choice = answer.choices[0]
    example = quoted_start(choice.instead) if choice.instead else ""
    if choice.filtered:
        return Shortcoming("the service's filter removed it", example, "Choose another model or task", another)
    if choice.failed:
        return Shortcoming("it ended with an error", example, choose, another)
    if choice.reasoned or choice.truncated:
        limit = most_tokens(style, sampling)
        what = (
            f"hidden reasoning used all of its {limit} tokens" if choice.truncated else "it has only hidden reasoning"
        )
        return Shortcoming(
            what,
            example,
            f"Raise offload.reasoning_tokens (now {sampling.reasoning_tokens}) or lower offload.reasoning_effort",
            f"swarmctl run --set offload.reasoning_tokens={2 * max(sampling.reasoning_tokens, 1024)}",
        )
    refused = "the model refuses to answer" if choice.instead else "it is empty"
    what = "it calls a tool instead of answering" if choice.called_tool else refused
    return Shortcoming(what, example, choose, another)


def text_shortcoming(choice: Choice, sampling: SamplingParams, name: str) -> Shortcoming | None:
    """Return what is wrong with the text of the test request's answer: it is cut, or has no answer. None if nothing."""
    if not sampling.answers:
        return None
    example = quoted_start(choice.text)
    if is_marked(choice.text) or (not choice.truncated and read(choice.text, TEST_ANSWER) is not None):
        return None
    if choice.truncated:
        return Shortcoming(
            "the text is cut at the length limit",
            example,
            f"Raise offload.max_tokens (now {sampling.max_tokens}){_UNLESS}",
            f"swarmctl run --set offload.max_tokens={2 * sampling.max_tokens}",
        )
    return Shortcoming(
        "the text has no readable answer",
        example,
        f"Such answers count as wrong. Choose another model (offload.model){_UNLESS}",
        f"swarmctl models {name}",
    )
