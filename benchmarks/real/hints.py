"""Measure whether a real model of 135 M parameters answers better with a hint, and whether it can write useful ones.

Asks SmolLM2-135M-Instruct for sums of two-digit numbers with greedy decoding, in the prompt style "plain": without a
hint, with a scripted one (the sums of the tens and of the ones, which do not contain the answer), and with one that the
model itself writes when it is asked as an API is. Nothing is trained. Hints are for questions that the model gets wrong
without one. Prints how many of these hints are refused for giving the answer away, and how many answers are correct,
with 95 % intervals.

    python -m benchmarks.real.hints --questions 64
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from benchmarks.real.tasks import first_step
from hivemind_exp.config import GenerationConfig, ModelConfig
from hivemind_exp.game.prompt_style import ChatBuilder, PromptStyle
from hivemind_exp.game.sampling.game import build_prompts, said
from hivemind_exp.intervals import in_percent
from hivemind_exp.models.chat_format import encode
from hivemind_exp.models.loading import load_model, load_tokenizer
from hivemind_exp.offload.hints import MOST_TOKENS, clean_hint, gives_away, hint_messages, with_hint
from hivemind_exp.rollouts.types import Prompt
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.stop import StopFlag
from hivemind_exp.tasks.base import Question
from hivemind_exp.tasks.verifiers.reader import read, reference_of

STYLE = PromptStyle(form="plain", system=False)


def questions(count: int) -> list[Question]:
    """Return different sums. Their answers have three kinds of shape: with and without a carry, two or three digits."""
    chance, found = random.Random(0), dict[str, int]()
    while len(found) < count + 1:
        first, second = chance.randint(10, 99), chance.randint(10, 99)
        found[f"What is {first} + {second}?"] = first + second
    return [
        Question("sum", "heldout", 0, number, text, {"answer": str(answer)}, text, text)
        for number, (text, answer) in enumerate(found.items())
    ]


def correct(prompt: Prompt, text: str) -> bool:
    """Return whether a completion's answer is the reference."""
    reference = reference_of(prompt.question.entry)
    reading = read(text, reference)
    return reading is not None and reading.answer == reference


def report(name: str, prompts: Sequence[Prompt], texts: Sequence[str | None], refused: int) -> None:
    """Print how many answers are correct. None: the question has no usable hint, so it counts as wrong."""
    right = sum(text is not None and correct(prompt, text) for prompt, text in zip(prompts, texts, strict=True))
    share = right / len(prompts)
    print(f"{name:28} {refused:3} refused, {right} of {len(prompts)} correct ({in_percent(share, len(prompts))} %)")


def answers(
    source: LocalSource, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], hints: Sequence[str]
) -> tuple[list[str | None], int]:
    """Return the answers with each usable hint, and how many hints are refused."""
    usable = [
        None if not hint or gives_away(hint, str(reference_of(prompt.question.entry))) else hint
        for prompt, hint in zip(prompts, hints, strict=True)
    ]
    shown = []
    for prompt, hint in zip(prompts, usable, strict=True):
        if hint is not None:
            messages = with_hint(prompt.messages, prompt.question.text, hint)
            shown.append(replace(prompt, messages=messages, ids=tuple(encode(messages, tokenizer))))
    made = iter(source.answer(shown))
    return [None if hint is None else said(next(made)) for hint in usable], usable.count(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    config = ModelConfig(name="smollm2", device=options.device)
    tokenizer = load_tokenizer(config)
    model = load_model(config, tokenizer, dtype="float32", seed=0).to(options.device)
    source = LocalSource(model, tokenizer, GenerationConfig(max_completion_tokens=32, batch=32), StopFlag())
    example, *asked = questions(options.questions)
    prompts = build_prompts(asked, tokenizer, ChatBuilder(STYLE, {"sum": [example]}))
    alone = [said(row) for row in source.answer(prompts)]
    report("without a hint", prompts, alone, 0)
    failed = [prompt for prompt, text in zip(prompts, alone, strict=True) if not correct(prompt, text)]
    texts, refused = answers(source, tokenizer, failed, [first_step(prompt.question.text) for prompt in failed])
    report("failed, scripted hints", failed, texts, refused)
    writer = LocalSource(model, tokenizer, GenerationConfig(max_completion_tokens=MOST_TOKENS, batch=32), StopFlag())
    chats = [hint_messages(prompt.question.text) for prompt in failed]
    requests = [
        replace(prompt, messages=chat, ids=tuple(encode(chat, tokenizer)))
        for prompt, chat in zip(failed, chats, strict=True)
    ]
    own = [clean_hint(row.text) for row in writer.answer(requests)]
    texts, refused = answers(source, tokenizer, failed, own)
    report("failed, the model's own hints", failed, texts, refused)
    for prompt, hint in list(zip(failed, own, strict=True))[:3]:
        print(f"  {prompt.question.text}  {hint}")


if __name__ == "__main__":
    main()
