"""Run the real ``transformers serve`` with a tiny model, as a user would start it on the CPU.

It is forked from the fork server, which has imported what it needs.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.support.patience import Patience

_PATIENCE = 120
"""Seconds that a start may take on a busy machine."""


@dataclass(frozen=True, slots=True)
class TransformersServer:
    """A running server."""

    base_url: str
    model: str
    """The model's directory, which requests must name."""
    log: Path


def _environment(home: Path) -> dict[str, str]:
    """Return an environment without network access and without the user's cache; its ``hub`` directory has to exist."""
    (home / "hub").mkdir(parents=True, exist_ok=True)
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_COLOR": "1"}
    # More threads make a model of this size slower.
    return {**os.environ, **offline, "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}


def _serve(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    """Be the program ``transformers``."""
    from tests.support.own_environment import become

    with log.open("wb") as out:
        become(environment, os.open(os.devnull, os.O_RDONLY), out.fileno(), out.fileno())
    from transformers.cli.transformers import main

    sys.argv = ["transformers", *arguments]
    main()


def _wait(process: ForkServerProcess, log: Path) -> str:
    """Return the URL once the server listens and has loaded the model."""
    patience = Patience(_PATIENCE)
    while not patience.is_over() and process.exitcode is None:
        if found := re.search(r"running on (http://[\d.]+:\d+)", log.read_text()):
            return found[1]
        time.sleep(0.05)
    raise RuntimeError(f"transformers serve did not start:\n{log.read_text()[-2000:]}")


@contextmanager
def transformers_server(directory: Path) -> Iterator[TransformersServer]:
    """Serve a new tiny Llama; ``directory`` holds the model, an empty hub cache and the log."""
    from tests.support.restarts import processes
    from tests.support.tiny_models import save_llama

    model, log = save_llama(directory / "model"), directory / "serve.log"
    log.touch()
    arguments = ["serve", str(model), "--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", "0"]
    process = processes().Process(target=_serve, args=(arguments, _environment(directory / "home"), log))
    process.start()
    try:
        yield TransformersServer(f"{_wait(process, log)}/v1", str(model), log)
    finally:
        # Killed, because a graceful end may wait for a generation.
        process.kill()
        process.join()
