"""Tiny models saved in directories, like a user's own models."""

from __future__ import annotations

from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM, T5Config

from hivemind_exp.models.tiny import build_tokenizer

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


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
