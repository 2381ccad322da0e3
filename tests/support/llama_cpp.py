"""A process that loads a GGUF file into llama.cpp and completes a prompt: ``python -m … FILE PROMPT TOKENS``.

A process of its own, because llama.cpp ends its process on an error.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def complete(file: Path, prompt: str, tokens: int) -> list[tuple[int, float]]:
    """Return the ids of llama.cpp's greedy completion and their log-probabilities."""
    command = [sys.executable, "-m", __name__, str(file), prompt, str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return [(token["id"], token["logprob"]) for token in answer["choices"][0]["logprobs"]["content"]]


def _main(file: str, prompt: str, tokens: str) -> None:
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = file
    settings.n_ctx, settings.n_parallel, settings.warmup, settings.offline = 256, 1, False, True
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1  # more would wait for each other, busily
    asked = {"prompt": prompt, "max_tokens": int(tokens), "temperature": 0, "logprobs": 1}
    print(json.dumps(xllamacpp.Server(settings).handle_completions(asked)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
