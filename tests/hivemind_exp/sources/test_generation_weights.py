"""Weights that are converted once give what autocast gives, and are as before afterwards."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from hivemind_exp.models.tiny import build_model
from hivemind_exp.sources import generation_weights as module
from hivemind_exp.sources.generation_weights import generation_weights
from tests.support.step_trainers import TOKENIZER

IDS = torch.arange(10, 40).reshape(2, 15)


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


@pytest.mark.parametrize("adapters", [False, True])
def test_results_are_those_of_autocast_and_the_weights_stay(adapters: bool) -> None:
    model: nn.Module = build_model(TOKENIZER, 0).eval()
    if adapters:
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    before = {name: value.clone() for name, value in model.named_parameters()}
    held = {name: id(value) for name, value in model.named_parameters()}
    expected = logits(model)
    with generation_weights(model, torch.bfloat16):
        linear = [each for each in model.modules() if isinstance(each, nn.Linear)]
        assert {each.weight.dtype for each in linear} == {torch.bfloat16}
        assert torch.equal(logits(model), expected)
    assert {name: id(value) for name, value in model.named_parameters()} == held
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def adapted(dtype: torch.dtype = torch.float32) -> nn.Module:
    model = get_peft_model(
        build_model(TOKENIZER, 0).to(dtype), LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    )
    for name, value in model.named_parameters():
        if "lora_" in name:
            value.data = value.data.float()
    return model.eval()


@torch.no_grad()
def test_adapters_are_merged_while_there_is_room() -> None:
    model = adapted()
    expected, calls = model(input_ids=IDS).logits, list[object]()
    with model.disable_adapter():
        assert not torch.allclose(model(input_ids=IDS).logits, expected, atol=1e-2)
    for name, layer in model.named_modules():
        if name.endswith("lora_A.default"):
            layer.register_forward_hook(lambda *_: calls.append(1))
    before = {name: value.clone() for name, value in model.named_parameters()}
    with generation_weights(model, torch.float32, room=10**9):
        torch.testing.assert_close(model(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-4)
        assert calls == []
    torch.testing.assert_close(model(input_ids=IDS).logits, expected)
    assert calls
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


@torch.no_grad()
def test_merged_weights_keep_the_format_of_those_under_them() -> None:
    model = adapted(torch.bfloat16)
    expected = logits(model)
    with generation_weights(model, torch.bfloat16, room=10**9):
        base = [each.weight.dtype for name, each in model.named_modules() if name.endswith("base_layer")]
        assert set(base) == {torch.bfloat16}
        # As much as a weight that is rounded to bfloat16 differs.
        torch.testing.assert_close(logits(model), expected, rtol=0.05, atol=0.15)


@pytest.mark.parametrize("room", [None, 10**5])
@torch.no_grad()
def test_adapters_are_not_merged_without_room(room: int | None) -> None:
    model = adapted()
    expected = model(input_ids=IDS).logits
    with generation_weights(model, torch.float32, room=room):
        assert torch.equal(model(input_ids=IDS).logits, expected)


@pytest.mark.slow
def test_without_memory_for_copies_the_weights_are_used_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object) -> nn.Parameter:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "_copy", short)
    model = build_model(TOKENIZER, 0).eval()
    expected = logits(model)
    with generation_weights(model, torch.bfloat16):
        assert torch.equal(logits(model), expected)


def test_weights_come_back_after_an_error() -> None:
    model = build_model(TOKENIZER, 0)
    with pytest.raises(KeyError), generation_weights(model, torch.bfloat16):
        raise KeyError
    assert {value.dtype for value in model.parameters()} == {torch.float32}


def test_a_computation_in_float32_needs_no_copies() -> None:
    model = build_model(TOKENIZER, 0)
    held = [id(value) for value in model.parameters()]
    with generation_weights(model, torch.float32):
        assert [id(value) for value in model.parameters()] == held
