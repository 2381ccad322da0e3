"""Libraries are left out where they are not needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
from hivemind_exp.models.lean_imports import without_scipy
without_scipy()
import transformers.modeling_utils
from transformers.utils import is_scipy_available
print(is_scipy_available(), "scipy" in sys.modules)
import scipy
without_scipy()
print(sys.modules["scipy"] is scipy)
"""


@pytest.mark.slow
def test_only_transformers_does_without_scipy() -> None:
    """A new version of transformers that imports scipy anyway, or asks in another way, fails here."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True"]


ADAPTERS = """
import sys
from hivemind_exp.config import Config
from hivemind_exp.models.lean_imports import without_bitsandbytes
model = {"name": "some/model", "lora": True, "load_in_4bit": "4bit" in sys.argv}
without_bitsandbytes(Config.model_validate({"model": model}))
import peft, transformers, trl.trainer.grpo_trainer
shape = transformers.LlamaConfig(
    vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1
)
peft.get_peft_model(transformers.LlamaForCausalLM(shape), peft.LoraConfig(target_modules="all-linear"))
print(bool(sys.modules.get("bitsandbytes")))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "imported"), [("", "False"), ("4bit", "True")])
def test_bitsandbytes_is_imported_only_for_settings_that_need_it(setting: str, imported: str) -> None:
    done = subprocess.run([sys.executable, "-c", ADAPTERS, setting], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [imported]
