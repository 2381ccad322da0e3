"""Processes that see one GPU of several: TRL refuses to train in a process that sees more."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def restart(module: str, visible: list[str]) -> NoReturn:
    """Start over as a process that sees the first of these GPUs only, and knows of the others (``--visible``).

    What the benchmarks import has asked CUDA for its devices by now, so it is too late to hide them here.
    """
    words = [sys.executable, "-m", module, *sys.argv[1:], "--visible", *visible]
    os.execve(words[0], words, os.environ | {"CUDA_VISIBLE_DEVICES": visible[0]})
