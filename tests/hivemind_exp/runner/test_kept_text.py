"""A tokenizer that loses characters of the questions is refused before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hivemind_exp.errors import ModelError
from hivemind_exp.models.model_location import OTHER_MODEL
from hivemind_exp.runner.kept_text import check_questions
from hivemind_exp.tasks.base import Question
from tests.support.tiny_models import bpe_tokenizer


def question(text: str, answer: str) -> Question:
    return Question("own", "train", 0, 0, text, {"answer": answer}, "", "")


def letters_only() -> Any:
    """Return a tokenizer that knows the characters of ASCII, and no bytes."""
    model = Tokenizer(models.BPE(unk_token="<unk>"))
    model.pre_tokenizer, model.decoder = pre_tokenizers.Split(" ", "isolated"), decoders.Fuse()
    alphabet = [chr(number) for number in range(32, 127)]
    model.train_from_iterator([], trainers.BpeTrainer(special_tokens=["<unk>"], initial_alphabet=alphabet))
    return PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>", eos_token="<unk>", pad_token="<unk>")


def without_accents() -> Any:
    tokenizer = bpe_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    return tokenizer


@pytest.mark.parametrize("make", [letters_only, without_accents])
@pytest.mark.parametrize(
    ("text", "answer", "what", "shown"),
    [("Où est le café?", "here", "questions", '"Où est le caf"'), ("Where?", "au café", "reference answers", "café")],
)
def test_lost_characters_are_an_error(make: Any, text: str, answer: str, what: str, shown: str) -> None:
    good, bad = question("What is 2 + 3?", "5"), question(text, answer)
    check_questions(make(), "m", {"own": [good]})
    with pytest.raises(
        ModelError, match=f"the tokenizer of m does not keep the {what} of task own: .*{shown}"
    ) as caught:
        check_questions(make(), "m", {"own": [good, bad]})
    assert caught.value.next == OTHER_MODEL


def test_a_tokenizer_of_bytes_keeps_every_text() -> None:
    check_questions(bpe_tokenizer(), "m", {"own": [question("Où?  \n ① 模型 <answer>", "ﬁ \u202e é")]})
