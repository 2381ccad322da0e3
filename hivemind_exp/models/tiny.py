"""A causal language model of 0.23 M parameters and its tokenizer, made from nothing.

Letters stay single tokens, since merges would swallow what the task is about; the tags and the question's template are
one token each, so that the model's few layers go to the answer.
"""

import string

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hivemind_exp.models.memory import TINY

TEMPLATE = "Spell this word backward (example: sun -> nus): "
"""How spell_backward's questions begin."""
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_PAD, _END, _UNKNOWN = "<|pad|>", "<|end|>", "<|unknown|>"
_CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'user' %}{{ message.content }}{% endif %}{% endfor %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a character-level tokenizer. Its chat template gives the model the user's words alone."""
    alphabet = [_PAD, _END, _UNKNOWN, *string.printable]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(alphabet)}, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        eos_token=_END,
        unk_token=_UNKNOWN,
        padding_side="left",
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
    # Not special: completions are decoded without special tokens, and the tags must survive that.
    fast.add_tokens([AddedToken(text, normalized=False, special=False) for text in (*TAGS, TEMPLATE)])
    return fast


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Return a model with random weights that follow from ``seed``."""
    config = LlamaConfig(
        **{key: value for key, value in TINY.items() if key not in ("model_type", "vocab_size")},
        vocab_size=len(tokenizer),
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
