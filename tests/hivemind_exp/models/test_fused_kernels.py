"""Fused kernels are used where the settings, the device and Liger allow it, and compute the same."""

from __future__ import annotations

import importlib.util
import sys
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.integrations import liger
from transformers.models.llama import modeling_llama

from hivemind_exp.config import ModelConfig
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.models import fused_kernels
from hivemind_exp.models.fused_kernels import are_used, check_fused, fuse
from hivemind_exp.models.loading import load_model
from hivemind_exp.models.tiny import build_model
from tests.support.step_trainers import TOKENIZER


def settings(wanted: Any) -> ModelConfig:
    return ModelConfig(name="tiny", fused_kernels=wanted)


def test_they_are_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_kernels, "installed", lambda: False)
    with pytest.raises(ConfigurationError, match="needs an NVIDIA GPU, and the device is cpu") as caught:
        check_fused(settings(True), "cpu")
    assert caught.value.next == "swarmctl run --set model.fused_kernels=auto"
    with pytest.raises(ConfigurationError, match="needs liger-kernel, which is not installed") as caught:
        check_fused(settings(True), "cuda:0")
    assert "pip install" in str(caught.value.next)
    for wanted in ("auto", False):
        check_fused(settings(wanted), "cuda:0")


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Pretend that torch has CUDA and that Liger is installed, for Llama alone; return what it is asked to do."""
    families: Any = ModuleType("liger_kernel.transformers.monkey_patch")
    families.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": None}
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, families.__name__, families)
    asked: list[Any] = []
    monkeypatch.setattr(liger, "apply_liger_kernel", lambda model, kernels: asked.append((model, kernels)))
    monkeypatch.setattr(fused_kernels, "installed", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    return asked


def test_a_model_gets_those_that_do_not_touch_the_loss(fused: list[Any]) -> None:
    model = build_model(TOKENIZER, 0)
    assert fuse(model, settings("auto"), "cuda:0")
    [(found, kernels)] = fused
    assert found is model
    assert {name for name, used in kernels.items() if used} == {"rope", "rms_norm", "swiglu"}
    assert {name for name, used in kernels.items() if not used} == {"cross_entropy", "fused_linear_cross_entropy"}


def test_models_loaded_later_compute_without_them(
    fused: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    build_model(TOKENIZER, 0).save_pretrained(tmp_path)
    norm = modeling_llama.LlamaRMSNorm

    class Kernel(norm):  # type: ignore[misc, valid-type]
        def forward(self, _: Tensor) -> Tensor:
            raise ValueError("Pointer argument (at 0) cannot be accessed from Triton (cpu tensor?)")

    def replace(_model: Any, _kernels: Any) -> None:
        # Liger also does this if it is given one model.
        monkeypatch.setattr(modeling_llama, "LlamaRMSNorm", Kernel)

    monkeypatch.setattr(fused_kernels, "_replaced", {})
    monkeypatch.setattr(liger, "apply_liger_kernel", replace)
    for _ in range(2):
        fuse(build_model(TOKENIZER, 0), settings("auto"), "cuda")
    for name in (str(tmp_path), "tiny"):
        config = ModelConfig(name=name)
        loaded = load_model(config, TOKENIZER, dtype="float32", seed=0)
        loaded(input_ids=torch.tensor([[5, 6]]))
        assert type(loaded.model.norm) is norm
    assert modeling_llama.LlamaRMSNorm is Kernel  # the model that has kernels looks some of them up there


def test_a_model_stays_as_it_is_without_a_card_or_if_they_are_off_or_for_another_family(
    fused: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(TOKENIZER, 0)
    assert not fuse(model, settings("auto"), "cpu")
    assert not fuse(model, settings(False), "cuda")
    model.config.model_type = "gpt2"
    assert not fuse(model, settings("auto"), "cuda")
    with pytest.raises(ConfigurationError, match="no kernels for models of the family gpt2"):
        fuse(model, settings(True), "cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert not are_used(settings("auto"), "cuda")
    assert fused == []


@pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("liger_kernel") is None, reason="needs a card and Liger"
)
def test_on_a_card_results_and_gradients_are_the_same() -> None:
    torch.manual_seed(0)
    plain = build_model(TOKENIZER, 0).cuda()
    kernels = deepcopy(plain)
    assert fuse(kernels, settings(True), "cuda")
    assert "Liger" in type(kernels.model.norm).__name__ or "Liger" in repr(kernels.model.norm)
    ids = torch.randint(3, 100, (4, 24), device="cuda")
    found = []
    for model in (plain, kernels):
        logits = model(input_ids=ids).logits
        logits.float().log_softmax(-1)[..., 5].sum().backward()
        found.append((logits.detach(), model.model.embed_tokens.weight.grad))
    for plainly, with_kernels in zip(*found, strict=True):
        torch.testing.assert_close(with_kernels, plainly, rtol=1e-3, atol=1e-4)
