"""Check that a tokenizer keeps the questions of a node's tasks, and their reference answers.

Tokenizers without tokens for all bytes replace characters that they don't know, and some drop accents. The model would
answer another question, and no completion could be the right answer.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hivemind_exp.errors import ModelError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.models.model_location import OTHER_MODEL
from hivemind_exp.rollouts.types import decode_completion, encode_completion
from hivemind_exp.tasks.base import Question
from hivemind_exp.tasks.verifiers.reader import reference_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_AROUND = 12
"""Characters shown around the first one that is lost."""


def check_questions(tokenizer: PreTrainedTokenizerBase, name: str, asked: Mapping[str, Sequence[Question]]) -> None:
    """Raise ``ModelError`` if the tokenizer of the model ``name`` changes a question or its reference answer.

    Spaces and Unicode's compatibility forms (``①`` for ``1``) may change.
    """
    for task, questions in asked.items():
        for question in questions:
            reference = reference_of(question.entry) or ""
            for what, text in (("question", question.text), ("reference answer", reference)):
                back = decode_completion(tokenizer, encode_completion(tokenizer, text, False))
                if _plain(text) not in _plain(back):
                    lost = foreign(_lost(text, back))
                    raise ModelError(
                        f"the tokenizer of {name} does not keep the {what}s of task {task}: {lost} changes",
                        next=OTHER_MODEL,
                    )


def _plain(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).split())


def _lost(text: str, back: str) -> str:
    """Return the part of ``text`` around the first character that ``back`` lacks; its beginning if it lacks none."""
    place = next((place for place, letter in enumerate(text) if letter not in back), 0)
    return text[max(0, place - _AROUND) : place + _AROUND]
