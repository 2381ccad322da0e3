"""What ``sampling`` asks: one stage, the question itself, with the format of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hivemind_exp.rollouts.types import Message, Prompt
from hivemind_exp.tasks.base import Question

if TYPE_CHECKING:  # the command line imports this module to see how long prompts are
    from transformers import PreTrainedTokenizerBase

STAGE = "answer"
INSTRUCTION = (
    "Think about the question first, between <think> and </think>. "
    "Then give the final answer, and nothing else, between <answer> and </answer>."
)


def messages(question: Question) -> tuple[Message, ...]:
    """Return the chat that asks one question."""
    return ({"role": "system", "content": INSTRUCTION}, {"role": "user", "content": question.text})


def build_prompts(questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase | None) -> list[Prompt]:
    """Return the prompts of the stage, in the chat format of the model if it has one; without a tokenizer no ids."""
    chats = [(question, messages(question)) for question in questions]
    return [Prompt(each, STAGE, chat, tuple(encode(chat, tokenizer)) if tokenizer else ()) for each, chat in chats]


def encode(chat: Sequence[Message], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token ids after which the model writes its turn."""
    if tokenizer.chat_template is None:
        text = "\n\n".join(message["content"] for message in chat) + "\n\n"
        return list(tokenizer.encode(text))
    text = tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=True)
    return list(tokenizer.encode(text, add_special_tokens=False))
