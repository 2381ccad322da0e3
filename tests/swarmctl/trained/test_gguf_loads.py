"""A GGUF file that the real converter wrote is loaded by llama.cpp and by transformers, and computes the same."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GemmaConfig, GemmaForCausalLM

from hivemind_exp.config import Config
from hivemind_exp.models import smollm2
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.run import trainer_process
from swarmctl.run.fetch_smollm2 import fetch_smollm2
from swarmctl.storage.hub_cache import snapshot
from swarmctl.terminal.prompter import Prompter
from swarmctl.trained.gguf_converter import Converter, Failed
from tests.support.forked_python import run_python
from tests.support.forked_swarmctl import spawn_model
from tests.support.llama_cpp import complete
from tests.support.real_model import downloading
from tests.support.tiny_models import save_llama
from tests.swarmctl.trained.conftest import make_node

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_leftovers")]
PROMPT = "<|im_start|>user\nWhat is 12 + 35? Write <answer>.<|im_end|>\n<|im_start|>assistant\n"
TOKENS = 12
LAYERS = 4
MODEL = {"name": smollm2.NAME, "device": "cpu"}


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real model. The user's own cache keeps it and the converter for the next time."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with downloading():
        fetch_smollm2(Config.model_validate({"model": MODEL}), Prompter(yes=True), "")
    found = snapshot(os.environ, smollm2.NAME, None)
    assert found is not None
    return found


@pytest.fixture
def shallow(base: Path, tmp_path: Path) -> Path:
    """The real model's first layers, with its tokenizer: files of it are written and loaded much faster."""
    model, tokenizer = load(base)
    model.model.layers = model.model.layers[:LAYERS]
    model.config.num_hidden_layers = LAYERS
    path = tmp_path / "shallow"
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def forked_converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the converter without importing torch and transformers again. The test of a quantized file starts it."""

    def run(self: Converter, *arguments: str) -> None:
        program = self.command[self.command.index("-m") :]
        done = run_python([*program, *arguments], tmp_path, self.environment)
        if done.returncode != 0:
            raise Failed(done.returncode, done.stdout + done.stderr)

    monkeypatch.setattr(Converter, "run", run)


def save_adapters(model: Any, tokenizer: Any, directory: Path) -> None:
    """Save adapters that change what the model computes, but not so much that it talks nonsense."""
    torch.manual_seed(0)
    how = LoraConfig(r=4, target_modules="all-linear")
    adapted: Any = get_peft_model(model, how)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    adapted.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def load(directory: Path, **how: str) -> tuple[Any, Any]:
    """Return the model and the tokenizer that transformers loads."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, **how)
    return model, AutoTokenizer.from_pretrained(directory, **how)


def greedy(model: Any, tokenizer: Any) -> list[tuple[int, float]]:
    """Return the ids of the greedy completion and their log-probabilities."""
    ids = tokenizer(PROMPT, return_tensors="pt", add_special_tokens=False).input_ids
    made: list[tuple[int, float]] = []
    cache = None
    with torch.no_grad():
        while len(made) < TOKENS and (not made or made[-1][0] != tokenizer.eos_token_id):
            found = model(ids, past_key_values=cache, use_cache=True)
            logps, cache = found.logits[0, -1].log_softmax(-1), found.past_key_values
            made.append((int(logps.argmax()), float(logps.max())))
            ids = torch.tensor([[made[-1][0]]])
    return made


def alike(one: list[tuple[int, float]], other: list[tuple[int, float]], within: float) -> bool:
    """Whether the ids are the same, and the log-probabilities almost."""
    ids, logps = zip(*one, strict=True)
    others, other_logps = zip(*other, strict=True)
    return bool(ids == others) and logps == pytest.approx(other_logps, abs=within)


@pytest.mark.usefixtures("forked_converter")
def test_merged_adapters_load_in_llama_cpp_and_in_transformers(
    home: Path, tmp_path: Path, shallow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xllamacpp")
    monkeypatch.setattr(trainer_process, "spawn", spawn_model)
    model, tokenizer = load(shallow)
    without = greedy(model, tokenizer)
    saved = make_node(home, model=MODEL | {"name": str(shallow), "lora": {}}) / "checkpoints" / "00000040" / "model"
    save_adapters(model, tokenizer, saved)
    whole, packed = tmp_path / "whole", tmp_path / "packed"
    assert cli.run(["export", "small", str(whole), "--merge"]) == Exit.DONE
    assert cli.run(["export", "small", str(packed), "--gguf", "--yes"]) == Exit.DONE
    wanted = greedy(*load(whole))
    assert len(wanted) > 4
    assert not alike(wanted, without, 0.3)
    assert alike(complete(packed / "small.gguf", PROMPT, TOKENS), wanted, 0.05)
    model, tokenizer = load(packed, gguf_file="small.gguf")
    assert alike(greedy(model, tokenizer), wanted, 0.05)
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(whole).chat_template


@pytest.mark.usefixtures("base", "forked_converter")  # with its cache
@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("tokenizer", "llama.cpp's converter does not support the tokenizer of "),
        ("model", "llama.cpp's converter does not support models like "),
        ("file", "llama.cpp's converter needs the file tokenizer.model of "),
    ],
)
def test_what_the_converter_does_not_know_is_explained(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str, cause: str
) -> None:
    model = tmp_path / "model"
    saved = make_node(home, model=MODEL | {"name": str(model)}) / "checkpoints" / "00000040" / "model"
    save_llama(saved)
    if kind == "model":
        settings = json.loads((saved / "config.json").read_text())
        (saved / "config.json").write_text(json.dumps(settings | {"architectures": ["OddForCausalLM"]}))
    elif kind == "file":
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        GemmaForCausalLM(GemmaConfig(vocab_size=128, num_key_value_heads=2, head_dim=16, **shape)).save_pretrained(
            saved
        )
    assert cli.run(["export", "small", str(tmp_path / "packed"), "--gguf", "--yes"]) == Exit.CONFIGURATION
    assert f"error: {cause}{model}" in capfd.readouterr().err
    assert not (tmp_path / "packed").exists()


def test_a_quantized_file_loads_in_llama_cpp(home: Path, tmp_path: Path, base: Path) -> None:
    pytest.importorskip("xllamacpp")
    saved = make_node(home, model=MODEL) / "checkpoints" / "00000040" / "model"
    saved.rmdir()
    saved.symlink_to(base)
    assert cli.run(["export", "small", str(tmp_path / "packed"), "--gguf-type", "q8_0", "--yes"]) == Exit.DONE
    packed = tmp_path / "packed" / "small.gguf"
    assert packed.stat().st_size < 150_000_000  # one byte per weight, 135 million weights, and their scales
    assert alike(complete(packed, PROMPT, TOKENS), greedy(*load(base)), 0.3)
