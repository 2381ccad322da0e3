"""Convert the weights of ``hivemind_exp.models.smollm2``: ``python -m … PACKAGES DIRECTORY``.

A process of its own: the reader of GGUF files is only on its path. DIRECTORY appears when it is complete.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hivemind_exp.models.smollm2 import GGUF


def convert(packages: Path, target: Path) -> None:
    """Write the model in ``packages`` to the directory ``target``, in bfloat16 as it was published."""
    place, file = str(packages / GGUF.parent), GGUF.name
    read = AutoModelForCausalLM.from_pretrained(place, gguf_file=file, dtype=torch.float32)
    settings = read.config.to_dict()
    # A model read from GGUF counts as quantized, which save_pretrained refuses; its weights are plain by now.
    settings.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        model.to(torch.bfloat16).save_pretrained(unfinished)
        AutoTokenizer.from_pretrained(place, gguf_file=file).save_pretrained(unfinished)
        try:
            os.replace(unfinished, target)
        except OSError:  # another process has just finished it, so a directory with files is in the way
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
