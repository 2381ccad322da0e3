"""Models that look like usable ones in a directory, and are not."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForCausalLM,
)

from tests.support.tiny_models import TEMPLATE, bpe_tokenizer

TOKENIZER = bpe_tokenizer()
SHAPE: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def llama(rows: int = len(TOKENIZER)) -> LlamaConfig:
    return LlamaConfig(vocab_size=rows, eos_token_id=2, pad_token_id=3, **SHAPE)


def gpt2(positions: int = 1024) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": positions}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(TOKENIZER), bos_token_id=0, eos_token_id=2, **shape))
    with torch.no_grad():  # with small new weights, positions would hardly matter
        for weights in model.parameters():
            weights.mul_(6.0 if weights.dim() > 1 else 1.0)
    return model


def save(root: Path, model: PreTrainedModel) -> Path:
    model.save_pretrained(root)
    tokenizer = bpe_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(root)
    return root


def change_weights(root: Path, change: Any) -> Path:
    file = root / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return root


def change_config(root: Path, **values: Any) -> Path:
    file = root / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return root


def with_nan(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    weights["model.layers.0.mlp.down_proj.weight"][0, 0] = torch.nan
    return weights


def half(root: Path) -> Path:
    saved = save(root, LlamaForCausalLM(llama()))
    return change_weights(saved, lambda weights: {key: each for key, each in weights.items() if "layers.1." not in key})


def classifier(root: Path) -> Path:
    return save(root, LlamaForSequenceClassification(llama()))


def classifier_by_another_name(root: Path) -> Path:
    return change_config(classifier(root), architectures=["LlamaForCausalLM"])


def another_shape(root: Path) -> Path:
    return change_config(save(root, LlamaForCausalLM(llama())), intermediate_size=128)


def own_code(root: Path) -> Path:
    code = {"AutoConfig": "configuration_my.MyConfig", "AutoModelForCausalLM": "modeling_my.MyModel"}
    saved = change_config(save(root, LlamaForCausalLM(llama())), model_type="my", auto_map=code)
    for name in ("configuration_my", "modeling_my"):
        (saved / f"{name}.py").write_text("raise SystemExit('this code ran')")
    return saved


def quantized(root: Path) -> Path:
    return change_config(save(root, LlamaForCausalLM(llama())), quantization_config={"quant_method": "gptq", "bits": 4})


def too_few_rows(root: Path) -> Path:
    return save(root, LlamaForCausalLM(llama(len(TOKENIZER) - 1)))


def pointer(root: Path) -> Path:
    saved = save(root, LlamaForCausalLM(llama()))
    (saved / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 988097824\n"
    )
    return saved


def only_a_type(root: Path) -> Path:
    """Such a configuration describes a model of 7 billion parameters."""
    saved = save(root, LlamaForCausalLM(llama()))
    (saved / "config.json").write_text('{"model_type": "llama"}')
    return saved


def only_a_type_beside_a_pickle(root: Path) -> Path:
    weights = io.BytesIO()
    torch.save(LlamaForCausalLM(llama()).state_dict(), weights)
    other_weights(root, weights.getvalue())
    (root / "config.json").write_text('{"model_type": "llama"}')
    return root


def endless_layers(root: Path) -> Path:
    return change_config(save(root, LlamaForCausalLM(llama())), num_hidden_layers=10**6)


def fewer_layers(root: Path) -> Path:
    return change_config(save(root, LlamaForCausalLM(llama())), num_hidden_layers=1)


def no_layers(root: Path) -> Path:
    return change_config(save(root, LlamaForCausalLM(llama())), num_hidden_layers=0)


def with_extra(root: Path, key: str) -> Path:
    saved = save(root, LlamaForCausalLM(llama()))
    return change_weights(saved, lambda weights: weights | {key: torch.ones(32, 32)})


def ignored_biases(root: Path) -> Path:
    return with_extra(root, "model.layers.0.self_attn.q_proj.bias")


def unmerged_adapter(root: Path) -> Path:
    return with_extra(root, "model.layers.1.self_attn.q_proj.lora_A.weight")


def another_norm(root: Path) -> Path:
    return with_extra(root, "model.layers.1.self_attn.q_norm.weight")


def replaced(root: Path, name: str, text: str) -> Path:
    saved = save(root, LlamaForCausalLM(llama()))
    (saved / name).write_text(text)
    return saved


def other_weights(root: Path, data: bytes) -> Path:
    saved = save(root, LlamaForCausalLM(llama()))
    (saved / "model.safetensors").unlink()
    (saved / "pytorch_model.bin").write_bytes(data)
    return saved


def no_heads(root: Path) -> Path:
    return change_config(save(root, LlamaForCausalLM(llama())), num_attention_heads=0)


def words_for_numbers(root: Path) -> Path:
    return change_config(save(root, LlamaForCausalLM(llama())), hidden_size="big")


def negative_size(root: Path) -> Path:
    return change_config(save(root, LlamaForCausalLM(llama())), hidden_size=-4)


def list_for_settings(root: Path) -> Path:
    return replaced(root, "config.json", "[1]")


def list_for_tokenizer(root: Path) -> Path:
    return replaced(root, "tokenizer_config.json", "[]")


def damaged_tokenizer(root: Path) -> Path:
    return replaced(root, "tokenizer.json", '{"version": "1.0", "model": {"type": "Other"}}')


def list_for_defaults(root: Path) -> Path:
    return replaced(root, "generation_config.json", "[]")


def empty_pickle(root: Path) -> Path:
    return other_weights(root, b"")


def damaged_pickle(root: Path) -> Path:
    return other_weights(root, b"damaged" * 99)


def usable(root: Path) -> Path:
    return save(root, LlamaForCausalLM(llama()))


def short(root: Path) -> Path:
    return save(root, gpt2(positions=64))


def not_finite(root: Path) -> Path:
    return change_weights(usable(root), with_nan)


def same_scores(root: Path) -> Path:
    return change_weights(
        usable(root), lambda weights: weights | {"lm_head.weight": torch.zeros_like(weights["lm_head.weight"])}
    )


def capped(root: Path) -> Path:
    """A model that does more than multiply its last hidden state by its output embedding."""
    torch.manual_seed(0)
    shape = {"max_position_embeddings": 1002, "pad_token_id": TOKENIZER.pad_token_id, **SHAPE}
    return save(root, RobertaForCausalLM(RobertaConfig(vocab_size=len(TOKENIZER), is_decoder=True, **shape)))
