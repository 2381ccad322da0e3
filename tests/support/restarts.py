"""Stop or kill nodes at any moment, restart them, and compare their final weights."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest.mock import patch

import torch
from safetensors.torch import load_file

from hivemind_exp.events import Event
from hivemind_exp.stop import StopFlag
from tests.support.recorded_events import Events


class Interrupter(Events):
    """Requests a stop at the n-th event; with a name, at the n-th event of that name."""

    def __init__(self, stop: StopFlag, moment: int, name: str | None = None) -> None:
        super().__init__()
        self._stop, self._moment, self._name = stop, moment, name

    def __call__(self, event: Event, /) -> None:
        super().__call__(event)
        if len(self.all if self._name is None else self.of(self._name)) == self._moment:
            self._stop.set()


def processes() -> ForkServerContext:
    """Return a context whose fork server starts nodes and engines in milliseconds once it has imported them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.preloaded"])
    # It outlives this test, so it gets nothing of its home directory.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("SWARMCTL_")}
    with patch.dict(os.environ, ours, clear=True):
        forkserver.ensure_running()
    return context


def killed(
    context: ForkServerContext,
    target: Callable[..., None],
    *arguments: object,
    when: Callable[[], object],
    pause_s: float,
) -> bool:
    """Start ``target(*arguments)`` in a separate process and kill it (SIGKILL) ``pause_s`` after ``when()`` is true.

    Returns:
        Whether it was alive until then. It may have ended before.
    """
    process = context.Process(target=target, args=arguments)
    process.start()
    while process.exitcode is None and not when():
        time.sleep(0.001)
    process.join(pause_s)
    alive = process.exitcode is None
    process.kill()
    process.join()
    return alive


def killed_often(
    target: Callable[[Path], None], root: Path, *, times: int, seed: int, growth: range, longest_s: float
) -> None:
    """Kill a node's process ``times`` times, each a moment after it has logged ``growth`` more bytes of events.

    Then let it finish. Asserts that at least half of the kills hit a running process.
    """
    context, chance, kills = processes(), random.Random(seed), 0
    for _ in range(times):
        told = grown(root / "events.jsonl", chance.randrange(growth.start, growth.stop))
        kills += killed(context, target, root, when=told, pause_s=chance.uniform(0, longest_s))
    assert kills >= times // 2
    finished(context, target, root)


def finished(context: ForkServerContext, target: Callable[..., None], *arguments: object) -> None:
    """Run ``target(*arguments)`` in a separate process and assert that it succeeds."""
    process = context.Process(target=target, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0


def grown(path: Path, by: int) -> Callable[[], bool]:
    """Return a condition that holds when a file has grown by ``by`` bytes."""
    wanted = size(path) + by
    return lambda: size(path) >= wanted


def size(path: Path) -> int:
    """Return a file's size in bytes; 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0


def final_weights(root: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a node's newest checkpoint."""
    newest = max(path for path in (root / "checkpoints").iterdir() if path.name.isdigit())
    return {
        f"{path.name}/{name}": tensor
        for path in (newest / "model").glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


def same_weights(one: Path, other: Path) -> bool:
    """Whether two nodes ended with bit-equal weights."""
    a, b = final_weights(one), final_weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
