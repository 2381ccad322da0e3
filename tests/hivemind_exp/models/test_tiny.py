"""The tiny model's supervised warm-up."""

from __future__ import annotations

import pytest
import torch

from hivemind_exp.config import WarmupConfig
from hivemind_exp.game.sampling.game import build_prompts
from hivemind_exp.models.tiny import TEMPLATE, build_model, build_tokenizer, warm_up
from hivemind_exp.rollouts.types import Prompt
from hivemind_exp.tasks.base import Question

TOKENIZER = build_tokenizer()


def prompts(*words: str) -> list[Prompt]:
    asked = [Question("spell_backward", "train", -1, n, f"{TEMPLATE}{w}", {}, w, w) for n, w in enumerate(words)]
    return build_prompts(asked, TOKENIZER)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2, 19, 20, 21, 60])
def test_warm_up_works_with_any_number_of_steps(steps: int) -> None:
    model = build_model(TOKENIZER, 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reported: list[tuple[int, int]] = []
    warm_up(
        model,
        TOKENIZER,
        prompts("pots", "stone", "cat"),
        WarmupConfig(steps=steps, batch=4),
        seed=1,
        progress=lambda done, total: reported.append((done, total)),
        should_stop=lambda: False,
    )
    assert reported == [(done, steps) for done in range(25, steps + 1, 25)]
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_stop_ends_the_warm_up_between_steps() -> None:
    model = build_model(TOKENIZER, 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    warm_up(
        model,
        TOKENIZER,
        prompts("pots"),
        WarmupConfig(steps=1000, batch=4),
        seed=1,
        progress=lambda *_: None,
        should_stop=lambda: True,
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
