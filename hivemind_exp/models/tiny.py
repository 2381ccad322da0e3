"""A causal language model with 0.23 M parameters: its tokenizer, its random weights, and its supervised warm-up.

Each letter is one token, because merged tokens would hide the letters that the task is about. Each tag is one token,
and so is the question's template, so that the model's few layers can work on the answer.

In the warm-up, the model learns the format, and to answer a minority of questions correctly. How often the
demonstrations are correct is fixed here, so that the accuracy before GRPO follows from this mixture, not from the
moment at which the warm-up stops.
"""

import random
import string
from collections.abc import Callable, Sequence

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from hivemind_exp.models.memory import TINY
from hivemind_exp.rollouts.types import Prompt
from hivemind_exp.warmup_settings import WarmupConfig

TEMPLATE = "Spell this word backward (example: sun -> nus): "
"""How spell_backward's questions begin."""
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_PAD, _END, _UNKNOWN = "<|pad|>", "<|end|>", "<|unknown|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'user' %}{{ message.content }}{% endif %}{% endfor %}"
)
"""Without the instruction, on purpose: the warm-up teaches the format."""
RIGHT = 0.7
"""How often a demonstration is correct for words under five letters. A wrong one copies the word unchanged."""
RIGHT_LONG = 0.3
"""The same for longer words."""
LONG = 5
_RISE = 0.05
"""Share of the steps during which the learning rate rises."""
_REPORT_EVERY = 25


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a character-level tokenizer. Its chat template passes only the user's messages to the model."""
    alphabet = [_PAD, _END, _UNKNOWN, *string.printable]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(alphabet)}, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        eos_token=_END,
        unk_token=_UNKNOWN,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
    # Not special tokens: decoding a completion drops those, and the tags must remain.
    fast.add_tokens([AddedToken(text, normalized=False, special=False) for text in (*TAGS, TEMPLATE)])
    return fast


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Return a model with random weights determined by ``seed``."""
    config = LlamaConfig(
        **{key: value for key, value in TINY.items() if key not in ("model_type", "vocab_size")},
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def warm_up(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    config: WarmupConfig,
    *,
    seed: int,
    progress: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> None:
    """Train ``model`` in place on demonstrations for spell_backward ``prompts``, with cross-entropy on the answer."""
    chance = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    examples = [(list(p.ids), _answer_ids(tokenizer, p.question.text, chance)) for p in prompts]
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    # A rise of one step or less would divide by zero. With so few steps, the learning rate only falls.
    rise = _RISE if config.steps * _RISE > 1 else 0.0
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=config.learning_rate, total_steps=config.steps, pct_start=rise
    )
    model.train()
    for step in range(config.steps):
        if should_stop():
            return
        picked = torch.randint(len(examples), (config.batch,), generator=generator).tolist()
        ids, labels = _pad([examples[i] for i in picked], tokenizer.pad_token_id)
        logits = model(
            input_ids=ids.to(model.device), attention_mask=(ids != tokenizer.pad_token_id).to(model.device)
        ).logits
        loss = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten().to(model.device))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if (step + 1) % _REPORT_EVERY == 0:
            progress(step + 1, config.steps)
    model.eval()


def _answer_ids(tokenizer: PreTrainedTokenizerBase, question: str, chance: random.Random) -> list[int]:
    word = question.removeprefix(TEMPLATE).strip()
    right = chance.random() < (RIGHT_LONG if len(word) >= LONG else RIGHT)
    answer = word[::-1] if right else word
    ids: list[int] = tokenizer.encode(f"<answer>{answer}</answer>", add_special_tokens=False)
    return [*ids, tokenizer.eos_token_id]


def _pad(examples: Sequence[tuple[list[int], list[int]]], fill: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and labels (B, T), padded on the right; labels are -100 outside the answer."""
    ids = [torch.tensor(prompt + answer) for prompt, answer in examples]
    labels = [torch.tensor([-100] * len(prompt) + answer) for prompt, answer in examples]
    return pad_sequence(ids, True, fill), pad_sequence(labels, True, -100)
