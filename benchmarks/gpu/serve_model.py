"""A model with random weights that vLLM serves, and a task of which such a model's completions teach something."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hivemind_exp.models.tiny import CHAT_TEMPLATE

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 512,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
    "0.5B": {
        "vocab_size": 151_936,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
    "1.5B": {
        "vocab_size": 151_936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
    },
}
"""Qwen2.5's shapes, for Llama's architecture: it differs only in biases, and AutoTokenizer keeps its tokenizer."""
TASK = '''"""Sums, whose rewards are as good as random, so that the completions of every prompt differ in theirs."""

import random
import zlib


def questions(seed):
    numbers = random.Random(seed)
    first, second = numbers.randrange(1000), numbers.randrange(1000)
    yield {"question": " ".join([f"What is {first} + {second}?"] * 8)}  # about 150 tokens


def score(answer, question):
    return float(zlib.crc32(answer.encode()) % 2)
'''


def save_model(shape: str, directory: Path) -> Path:
    """Save a model of one of ``SHAPES`` and its tokenizer; return the directory.

    Every token that is no character is an answer in tags, so that random text contains answers.
    """
    dimensions = SHAPES[shape]
    known = ["<|pad|>", "<|end|>", "<|unknown|>", *string.printable]
    answers = [f"<answer>{number}</answer>" for number in range(dimensions["vocab_size"] - len(known))]
    words = models.WordLevel({token: i for i, token in enumerate([*known, *answers])}, unk_token="<|unknown|>")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        unk_token="<|unknown|>",
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(directory)
    torch.manual_seed(0)
    config = LlamaConfig(
        **dimensions,
        tie_word_embeddings=True,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    return directory


def save_task(path: Path, *, equal: bool = False) -> Path:
    """Write the task's file; return its path. ``equal``: all rewards are, so that nothing is trained on."""
    path.write_text(TASK.replace("% 2", "% 1") if equal else TASK, encoding="utf-8")
    return path
