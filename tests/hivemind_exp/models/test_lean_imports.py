"""Libraries are left out where they are not needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hivemind_exp.config import Config
from hivemind_exp.models import lean_imports

CODE = """
import sys
from hivemind_exp.config import Config
from hivemind_exp.models.lean_imports import without_bitsandbytes, without_scipy
without_scipy()
without_bitsandbytes(Config.model_validate({"model": {"name": "some/model", "lora": True}}))
import transformers.modeling_utils
from transformers.utils import is_scipy_available
print(is_scipy_available(), "scipy" in sys.modules)
import peft, trl.trainer.grpo_trainer
shape = transformers.LlamaConfig(
    vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1
)
peft.get_peft_model(transformers.LlamaForCausalLM(shape), peft.LoraConfig(target_modules="all-linear"))
print(any(name.startswith("bitsandbytes.") for name in sys.modules))
import scipy
without_scipy()
print(sys.modules["scipy"] is scipy)
"""


@pytest.mark.slow
def test_only_transformers_does_without_scipy_and_adapters_work_without_bitsandbytes() -> None:
    """A new version of a library that imports them anyway, or asks in another way, fails here."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "False", "True"]


@pytest.mark.parametrize(
    ("sections", "needed"),
    [
        ({}, False),
        ({"model": {"name": "some/model", "lora": True}}, False),
        ({"model": {"name": "some/model", "lora": True, "load_in_4bit": True}}, True),
        ({"train": {"optimizer": "adamw-8bit"}}, True),
    ],
)
def test_bitsandbytes_is_left_out_unless_the_settings_need_it(
    sections: dict[str, dict[str, object]], needed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_out: list[str] = []
    monkeypatch.setattr(lean_imports, "leave_out", left_out.append)
    lean_imports.without_bitsandbytes(Config.model_validate(sections))
    assert left_out == ([] if needed else ["bitsandbytes"])
