"""How a node asks a question: the format it asks for, examples, and where the instruction stands.

A style belongs to a node and may differ between the nodes of a swarm: answers are read in any format
(``hivemind_exp.tasks.verifiers.reader``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from hivemind_exp.config import PromptConfig
from hivemind_exp.rollouts.types import Message
from hivemind_exp.tasks.base import Question, Tasks
from hivemind_exp.tasks.verifiers.answer_tags import INSTRUCTION
from hivemind_exp.tasks.verifiers.reader import Reading, is_number, read, reference_of

Form = Literal["tags", "answer-tag", "boxed", "plain"]
FORMS: tuple[Form, ...] = ("tags", "answer-tag", "boxed", "plain")
FORMATS: Mapping[Form, str] = {"tags": "tags", "answer-tag": "tags", "boxed": "boxed", "plain": "plain"}
"""The format in which a completion that follows the style is read."""

_ASKS: Mapping[Form, str] = {
    "tags": INSTRUCTION,
    "answer-tag": "Give the final answer, and nothing else, between <answer> and </answer>.",
    "boxed": "Reason step by step, and put your final answer within \\boxed{}.",
    "plain": "Reply with just the {what}.",
}
WORDED = 8
"""Examples of a task that decide whether its answers are called numbers, words or answers."""


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """One way to ask. The default is the way of nodes that were created before there were others."""

    form: Form = "tags"
    """What is asked for: ``<think>`` and ``<answer>``, only ``<answer>``, ``\\boxed{}``, or just the answer."""
    examples: Annotated[int, Field(ge=0, le=8)] = 0
    """Questions of the same task that are shown with their answers."""
    system: bool = True
    """Whether the instruction is a system turn. If not, it follows the question in the user's turn."""
    thinking: bool | None = None
    """Turns the chat template's thinking mode on or off. None: the template's default."""

    def __str__(self) -> str:
        parts = [self.form, f"{self.examples or 'no'} example{'' if self.examples == 1 else 's'}"]
        parts.append("system turn" if self.system else "user turn")
        if self.thinking is not None:
            parts.append(f"thinking {'on' if self.thinking else 'off'}")
        return ", ".join(parts)

    @property
    def reasons(self) -> bool:
        """Whether a completion in this style has room for reasoning before the answer."""
        return self.form in ("tags", "boxed")

    def dress(self, reading: Reading, *, reasoning: bool = True) -> str | None:
        """Return an answer that was read in any format as a completion in this style.

        ``reasoning``: keep the text before the answer. None if the style has no room for it, or cannot hold the answer.
        """
        thought = reading.thought if reasoning else ""
        if thought and not self.reasons:
            return None
        text = _completion(self.form, reading.answer, thought)
        back = read(text, reading.answer)
        return text if back is not None and back.answer == reading.answer else None

    def is_followed(self, text: str, reference: str | None) -> bool:
        """Return whether a completion has exactly the shape that this style asks for."""
        reading = read(text, reference)
        return reading is not None and reading.strict and reading.format == FORMATS[self.form]

    def adopt(self, text: str, reference: str | None) -> str | None:
        """Return another node's completion in this style. None if something would be lost.

        Text without a readable answer stays as it is: it earns nothing in any style.
        """
        reading = read(text, reference)
        if reading is None or reading.format == FORMATS[self.form]:
            return text
        return self.dress(reading) if reading.whole else None


TAGS_STYLE = PromptStyle()


def _completion(form: Form, answer: str, thought: str = "") -> str:
    match form:
        case "plain":
            return answer
        case "boxed":
            return f"{thought}\n\n\\boxed{{{answer}}}" if thought else f"\\boxed{{{answer}}}"
    return f"<think>{thought}</think>\n<answer>{answer}</answer>" if thought else f"<answer>{answer}</answer>"


def configured(config: PromptConfig, thinking: bool | None = None) -> PromptStyle:
    """Return the style that the settings name. What they leave open is as tested: tags if the style is open, too.

    ``thinking``: the setting ``model.thinking``.
    """
    form: Form = "tags" if config.style == "auto" else config.style
    system = form == "tags" if config.system is None else config.system
    return PromptStyle(form, 0 if config.examples == "auto" else config.examples, system, thinking)


@dataclass(frozen=True, slots=True)
class ChatBuilder:
    """Builds the chats that ask questions in one style."""

    style: PromptStyle = TAGS_STYLE
    shown: Mapping[str, Sequence[Question]] = field(default_factory=dict)
    """By task, questions that are never asked. The first ``style.examples`` are shown with their answers."""

    def chat(self, question: Question, voice: str = "") -> tuple[Message, ...]:
        """Return the chat that asks a question. ``voice``: the start of the instruction, for a role.

        A conversation with an environment begins as the environment says, in no style.
        """
        if question.chat:
            return tuple(dict(message) for message in question.chat)
        style, shown = self.style, self.shown.get(question.task, ())
        asks = _ASKS[style.form].format(what=_what(shown)) if style.form == "plain" else _ASKS[style.form]
        turns: list[Message] = []
        if style.system:
            turns.append({"role": "system", "content": f"{voice}\n\n{asks}" if voice else asks})
        for example in shown[: style.examples]:
            turns.append({"role": "user", "content": self._user(example.text, asks)})
            turns.append({"role": "assistant", "content": _completion(style.form, reference_of(example.entry) or "")})
        turns.append({"role": "user", "content": self._user(question.text, asks)})
        if voice and not style.system:
            turns[0] = {"role": "user", "content": f"{voice}\n\n{turns[0]['content']}"}
        return tuple(turns)

    def _user(self, text: str, asks: str) -> str:
        if self.style.system:
            return text
        gap = "\n\n" if "\n" in text.strip() else " "
        return f"{text}{gap}{asks}"


def build_chats(style: PromptStyle, tasks: Tasks) -> ChatBuilder:
    """Return a builder with examples of each task. Sets those that it shows aside, so that they are never asked."""
    if style.form != "plain" and not style.examples:
        return ChatBuilder(style)
    drawn = tasks.examples(max(WORDED, style.examples))
    usable = {task: [each for each in some if reference_of(each.entry)] for task, some in drawn.items()}
    builder = ChatBuilder(style, usable)
    tasks.set_aside([each for some in usable.values() for each in some[: style.examples]])
    return builder


def _what(shown: Sequence[Question]) -> str:
    """Return what a task's answers are called."""
    answers = [reference_of(each.entry) or "" for each in shown]
    if answers and all(map(is_number, answers)):
        return "number"
    return "word" if answers and all(answer.isalpha() for answer in answers) else "answer"
