"""The supervised start of the tiny model: it learns the format, and to be right on a minority of questions.

How often the demonstrations are right is fixed here, so that the base level comes from the mixture and not from
stopping at a lucky moment.
"""

import random
from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hivemind_exp.config import WarmupConfig
from hivemind_exp.models.tiny import TEMPLATE
from hivemind_exp.rollouts.types import Prompt

RIGHT = 0.7
"""How often a demonstration is right for words under five letters; otherwise the word is copied as it stands."""
RIGHT_LONG = 0.3
"""The same for longer words."""
LONG = 5
_RISE = 0.05
"""Share of the steps over which the learning rate rises."""
_REPORT_EVERY = 25


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
    """Train ``model`` in place on demonstrations for ``prompts`` (of spell_backward), cross-entropy on the answer."""
    chance = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    examples = [(list(p.ids), _answer_ids(tokenizer, p.question.text, chance)) for p in prompts]
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    # A rise of one step or less would divide by zero: so few steps fall from the start.
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
    width = max(len(prompt) + len(answer) for prompt, answer in examples)
    ids = torch.full((len(examples), width), fill)
    labels = torch.full((len(examples), width), -100)
    for row, (prompt, answer) in enumerate(examples):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : end] = torch.tensor(answer)
    return ids, labels
