"""Decoding with a static cache gives what ``generate`` gives; on an NVIDIA card, also with a recorded graph."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import GenerationConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from hivemind_exp.config import Config
from hivemind_exp.config import GenerationConfig as GenerationSettings
from hivemind_exp.models.loading import adapter_config
from hivemind_exp.models.tiny import build_model
from hivemind_exp.rollouts.types import Prompt
from hivemind_exp.sources import graph_decoding
from hivemind_exp.sources.generation_weights import generation_weights
from hivemind_exp.sources.graph_decoding import can_decode, decode
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.stop import StopFlag, StopRequested
from hivemind_exp.tasks.base import Question
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer
from tests.support.step_trainers import TOKENIZER

FILL = int(TOKENIZER.pad_token_id)
GREEDY = partial(torch.argmax, dim=-1)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    made = build_model(TOKENIZER, seed=3).eval()
    made.generation_config.eos_token_id = None  # ``generate`` would end at it where a test names no end
    return made.cuda() if torch.cuda.is_available() else made


def prompts(model: LlamaForCausalLM, lengths: tuple[int, ...] = (3, 9, 6, 9)) -> tuple[Tensor, Tensor]:
    """Return prompts of these lengths, padded on the left, and their mask."""
    width = max(lengths)
    torch.manual_seed(5)
    ids = torch.randint(10, 100, (len(lengths), width))
    mask = (torch.arange(width) >= width - torch.tensor(lengths).unsqueeze(1)).long()
    return ids.where(mask.bool(), FILL).to(model.device), mask.to(model.device)


def generated(model: LlamaForCausalLM, ids: Tensor, mask: Tensor, most: int, end_ids: list[int]) -> list[list[int]]:
    settings = GenerationConfig(
        max_new_tokens=most, do_sample=False, pad_token_id=FILL, eos_token_id=end_ids or None, disable_compile=True
    )
    rows: list[list[int]] = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings).tolist()
    return [row[ids.size(1) :] for row in rows]


@pytest.mark.slow
@torch.no_grad()
def test_adapters_decode_the_same_way(model: LlamaForCausalLM) -> None:
    torch.manual_seed(0)
    with_adapter = get_peft_model(
        deepcopy(model), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    )
    ids, mask = prompts(model)
    found = decode(with_adapter.eval(), ids, mask, limits=[12] * len(ids), choose=GREEDY, end_ids=[], fill=FILL)
    assert found.tolist() == generated(with_adapter, ids, mask, 12, [])
    assert found.tolist() != generated(model, ids, mask, 12, [])


@torch.no_grad()
def test_a_model_that_cannot_be_recorded_decodes_step_by_step(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", refuse)
    monkeypatch.setattr(graph_decoding, "on_nvidia", lambda _: True)
    ids, mask = prompts(model)
    found = decode(model, ids, mask, limits=[12] * len(ids), choose=GREEDY, end_ids=[], fill=FILL)
    assert found.tolist() == generated(model, ids, mask, 12, [])


@pytest.mark.parametrize("most", [1, 2, 40])
@torch.no_grad()
def test_greedy_completions_are_those_of_generate(model: LlamaForCausalLM, most: int) -> None:
    ids, mask = prompts(model)
    found = decode(model, ids, mask, limits=[most] * len(ids), choose=GREEDY, end_ids=[], fill=FILL)
    assert found.tolist() == generated(model, ids, mask, most, [])


@torch.no_grad()
def test_rows_end_at_their_first_end_and_the_batch_when_all_have(model: LlamaForCausalLM) -> None:
    ids, mask = prompts(model)
    free = generated(model, ids, mask, 40, [])
    ends = sorted({row[4 + place] for place, row in enumerate(free)})
    found = decode(model, ids, mask, limits=[40] * len(ids), choose=GREEDY, end_ids=ends, fill=FILL).tolist()
    assert found == generated(model, ids, mask, 40, ends)
    assert len(found[0]) < 40
    assert max(sum(token in ends for token in row) for row in found) == 1


@torch.no_grad()
def test_completions_end_at_limits_of_their_own(model: LlamaForCausalLM) -> None:
    ids, mask = prompts(model)
    limits = [12, 1, 5, 9]
    found = decode(model, ids, mask, limits=limits, choose=GREEDY, end_ids=[], fill=FILL).tolist()
    free = generated(model, ids, mask, 12, [])
    assert found == [row[:limit] + [FILL] * (12 - limit) for row, limit in zip(free, limits, strict=True)]


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
@torch.no_grad()
def test_waiting_prompts_take_the_rows_of_completions_that_have_ended(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(graph_decoding, "TOKENS_PER_LOOK", 2)
    ids, mask = prompts(model, (3, 9, 6, 9, 4, 12, 8))
    limits = [20, 3, 6, 2, 18, 5, 9]
    steps: list[int] = []
    counts: list[int] = []

    def choose(logits: Tensor) -> Tensor:
        steps.append(len(logits))
        return GREEDY(logits)

    found = decode(
        model,
        ids,
        mask,
        limits=limits,
        choose=choose,
        end_ids=[],
        fill=FILL,
        rows=rows,
        look=lambda count: counts.append(count()),
    ).tolist()
    free = generated(model, ids, mask, 20, [])
    assert found == [row[:limit] + [FILL] * (20 - limit) for row, limit in zip(free, limits, strict=True)]
    one_after_the_other = sum(max(limits[i : i + rows]) for i in range(0, len(limits), rows))
    assert len(steps) < one_after_the_other + len(limits) * (1 if rows == 1 else 0) + 2
    assert counts == sorted(counts)
    assert counts[-1] == len(limits)


@torch.no_grad()
def test_a_row_that_ends_with_its_first_token_makes_room(model: LlamaForCausalLM) -> None:
    ids, mask = prompts(model, (5, 5, 5))
    end = generated(model, ids[:1], mask[:1], 1, [])[0][0]
    found = decode(model, ids, mask, limits=[30] * 3, choose=GREEDY, end_ids=[end], fill=FILL, rows=1).tolist()
    assert found == generated(model, ids, mask, 30, [end])


@torch.no_grad()
def test_every_token_is_chosen_from_logits_of_the_whole_row(model: LlamaForCausalLM) -> None:
    ids, mask = prompts(model)
    # On the device, because a graph replays what is there, and nothing else.
    seen = torch.zeros((6, len(ids), model.config.vocab_size), device=model.device)
    place = torch.zeros(1, dtype=torch.long, device=model.device)

    def choose(logits: Tensor) -> Tensor:
        seen.index_copy_(0, place, logits.unsqueeze(0))
        place.add_(1)
        return (20 + place).expand(len(logits))

    made = decode(model, ids, mask, limits=[6] * len(ids), choose=choose, end_ids=[], fill=FILL)
    row, whole = 0, torch.cat([ids[0, -3:], made[0, :-1]]).unsqueeze(0)
    assert made[row].tolist() == [21, 22, 23, 24, 25, 26]
    torch.testing.assert_close(seen[:, row], model(input_ids=whole).logits[0, 2:], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("copied", [True, False])
@torch.no_grad()
def test_a_float32_model_decodes_under_autocast(model: LlamaForCausalLM, copied: bool) -> None:
    """As without fused kernels: rotary embeddings leave the keys in float32, and the values are in bfloat16."""
    ids, mask = prompts(model)
    seen = torch.zeros((6, len(ids), model.config.vocab_size), device=model.device)
    place = torch.zeros(1, dtype=torch.long, device=model.device)

    def choose(logits: Tensor) -> Tensor:
        seen.index_copy_(0, place, logits.float().unsqueeze(0))
        place.add_(1)
        return (20 + place).expand(len(logits))

    dtype = torch.bfloat16
    with torch.autocast(model.device.type, dtype=dtype), generation_weights(model, dtype if copied else torch.float32):
        made = decode(model, ids, mask, limits=[6] * len(ids), choose=choose, end_ids=[], fill=FILL)
        whole = torch.cat([ids[0, -3:], made[0, :-1]]).unsqueeze(0)
        full = model(input_ids=whole).logits[0, 2:].float()
    torch.testing.assert_close(seen[:, 0], full, rtol=0.02, atol=0.02)
    assert not torch.equal(full, model(input_ids=whole).logits[0, 2:]), "autocast has no effect"


@pytest.mark.slow
@pytest.mark.parametrize("model", [{}, {"lora": {"rank": 4}}])
def test_a_trainer_in_bfloat16_generates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: dict[str, Any]
) -> None:
    """All that is not real is the card: without one, no graph is recorded, and each token is computed."""
    decoded = list[int]()

    def watch(*args: Any, **how: Any) -> Tensor:
        decoded.append(len(args[1]))
        return decode(*args, **how)

    def refuse() -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    config = Config.model_validate({"model": {"name": "tiny", **model}, "generation": {"max_completion_tokens": 16}})
    peft = adapter_config(config.model.lora)
    made = build_model(TOKENIZER, 0).to(torch.float32 if peft is None else torch.bfloat16)  # as nodes load it
    trainer = SourceGRPOTrainer(made, TOKENIZER, config, tmp_path, device="cpu", dtype="bfloat16", peft_config=peft)
    source = LocalSource(trainer.policy, TOKENIZER, config.generation, StopFlag(), _dtype="bfloat16")
    question = Question("t", "train", 0, 0, "q", {}, "d", "k")
    asked = [Prompt(question, "answer", (), tuple(range(10, 10 + length))) for length in (3, 9)]
    greedy = source.answer(asked)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", refuse)
    monkeypatch.setattr(graph_decoding, "on_nvidia", lambda _: True)
    monkeypatch.setattr(graph_decoding, "decode", watch)
    assert [row.ids[:4] for row in source.answer(asked)] == [row.ids[:4] for row in greedy]
    assert [len(rows) for rows in source.generate(asked, 3, seed=1)] == [3, 3]
    assert decoded == [2, 6]


@torch.no_grad()
def test_a_stop_ends_it_between_two_tokens(model: LlamaForCausalLM) -> None:
    ids, mask = prompts(model)
    stop, chosen = StopFlag(), []

    def choose(logits: Tensor) -> Tensor:
        chosen.append(len(chosen))
        if len(chosen) == 3:
            stop.set()
        return GREEDY(logits)

    with pytest.raises(StopRequested):
        decode(model, ids, mask, limits=[40] * len(ids), choose=choose, end_ids=[], fill=FILL, check=stop.check)
    assert len(chosen) == 3


def test_a_graph_is_recorded_only_where_it_works_and_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    made = build_model(TOKENIZER, seed=3)
    assert not can_decode(made, 40)
    monkeypatch.setattr(graph_decoding, "on_nvidia", lambda _: True)
    assert can_decode(made, 40)
    assert not can_decode(made, 2)
    usual = made.config.rope_parameters
    made.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    assert not can_decode(made, 40)
    made.config.rope_parameters = usual
    made.config._attn_implementation = "eager"
    assert not can_decode(made, 40)


def test_models_with_a_sliding_window_generate_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_decoding, "on_nvidia", lambda _: True)
    made = MistralForCausalLM(
        MistralConfig(
            vocab_size=108,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            sliding_window=8,
        )
    )
    assert not can_decode(made, 40)


def test_tokens_are_drawn_from_the_tempered_softmax(model: LlamaForCausalLM) -> None:
    """Pearson's χ² of 40,000 draws from 12 tokens: the 99.9 % quantile for 11 degrees of freedom is 31.3."""
    torch.manual_seed(0)
    source = LocalSource(model, TOKENIZER, GenerationSettings(temperature=0.7), StopFlag())
    logits = torch.linspace(-2, 2, 12)
    draws = 40_000
    counts = torch.bincount(source._sample(logits.expand(draws, 12)), minlength=12)
    expected = torch.softmax(logits / 0.7, -1) * draws
    assert float(((counts - expected) ** 2 / expected).sum()) < 31.3
    torch.manual_seed(1)
    first = source._sample(logits.expand(100, 12))
    torch.manual_seed(1)
    assert torch.equal(first, source._sample(logits.expand(100, 12)))
