"""Tiny models saved in directories, like a user's own models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, T5Config

from hivemind_exp.models.tiny import build_tokenizer

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def vocabulary() -> list[str]:
    """Return the text of each token of the tiny model."""
    tokenizer = build_tokenizer()
    return [tokenizer.decode([number]) for number in range(len(tokenizer))]


def save_llama(directory: Path, template: str = TEMPLATE) -> Path:
    """Save a Llama of a few thousand weights with its own chat template and end-of-turn token."""
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        vocab_size=len(tokenizer), num_key_value_heads=2, tie_word_embeddings=True, eos_token_id=1, **shape
    )
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = [1, 5]
    model.generation_config.top_k = 20
    model.generation_config.do_sample = True
    model.generation_config.repetition_penalty = 1.3
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def save_encoder_decoder(directory: Path) -> Path:
    """Save the configuration of a model that is not a causal language model."""
    T5Config(d_model=16, d_ff=16, num_layers=1, num_heads=1, vocab_size=16).save_pretrained(directory)
    build_tokenizer().save_pretrained(directory)
    return directory


SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>")


def bpe_tokenizer(
    *, special: tuple[str, ...] = (), ends: bool = False, vocabulary: str | None = None
) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer. ``special``: more special tokens; ``ends``: append the end to every text."""
    letters = pre_tokenizers.ByteLevel.alphabet() if vocabulary is None else list(vocabulary)
    tokens = {token: number for number, token in enumerate([*SPECIAL, *sorted(letters)])}
    tokenizer = Tokenizer(models.BPE(tokens, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if ends:
        end = (SPECIAL[2], tokens[SPECIAL[2]])
        tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {end[0]}", special_tokens=[end])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=SPECIAL[2], pad_token=SPECIAL[3])
    fast.add_special_tokens({"additional_special_tokens": [SPECIAL[0], SPECIAL[1], *special]})
    return fast


def save_for_vllm(directory: Path) -> Path:
    """Save a model of the smallest shape that vLLM serves on a CPU; return its directory."""
    tokenizer = build_tokenizer()
    shape: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "head_dim": 64}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512}
    special = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape, **special)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
