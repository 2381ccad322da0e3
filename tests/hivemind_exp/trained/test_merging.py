"""The merged model is the adapted one, without peft."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hivemind_exp.trained.loading import loaded_model
from hivemind_exp.trained.merging import merge
from tests.hivemind_exp.trained.conftest import Trained
from tests.support.links import RecordedLink


@pytest.mark.slow
def test_the_merged_model_computes_what_the_adapted_one_does(adapted: Trained, tmp_path: Path) -> None:
    job = adapted.job({"directory": str(tmp_path)}, RecordedLink())
    merge(job)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = torch.tensor([tokenizer.encode("abc<answer>")])
    with loaded_model(job) as own, loaded_model(job, trained=False) as base, torch.no_grad():
        assert own.tokenizer.encode("abc<answer>") == ids[0].tolist()
        assert tokenizer.chat_template == own.tokenizer.chat_template
        wanted = own.model(ids).logits
        assert torch.allclose(loaded(ids).logits, wanted, atol=1e-4)
        assert not torch.allclose(base.model(ids).logits, wanted, atol=1e-2)
