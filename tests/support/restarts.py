"""Nodes that are stopped or killed at any moment and started again, and the weights that they must end with."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import torch
from safetensors.torch import load_file

from hivemind_exp.events import Event
from hivemind_exp.stop import StopFlag
from tests.support.recorded_events import Events

PRELOADED = [
    "hivemind_exp.runner.build_swarm",
    "hivemind_exp.runner.grpo_runner",
    "openai",
    "tests.support.chaos.forked",
    "tests.support.engine_rig",
    "tests.support.nodes",
]
"""What nodes and engines import for seconds. One list: a test process has one such server, whoever starts it."""


class Interrupter(Events):
    """Asks for a stop when the n-th event is told; with a name, the n-th of that name."""

    def __init__(self, stop: StopFlag, moment: int, name: str | None = None) -> None:
        super().__init__()
        self._stop, self._moment, self._name = stop, moment, name

    def __call__(self, event: Event, /) -> None:
        super().__call__(event)
        if len(self.all if self._name is None else self.of(self._name)) == self._moment:
            self._stop.set()


def processes() -> ForkServerContext:
    """Return what starts processes of nodes and engines within milliseconds, once it has imported what they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def killed(
    context: ForkServerContext,
    target: Callable[..., None],
    *arguments: object,
    when: Callable[[], object],
    pause_s: float,
) -> bool:
    """Start ``target(*arguments)`` in a process of its own and kill it (SIGKILL) ``pause_s`` after ``when()`` holds.

    Returns:
        Whether it was alive until then. It may have come to its end before.
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
    """Kill a node's process ``times`` times, each when it has told ``growth`` bytes more and a moment has passed.

    Then let it come to its end. Asserts that half of the kills or more hit something.
    """
    context, chance, kills = processes(), random.Random(seed), 0
    for _ in range(times):
        told = grown(root / "events.jsonl", chance.randrange(growth.start, growth.stop))
        kills += killed(context, target, root, when=told, pause_s=chance.uniform(0, longest_s))
    assert kills >= times // 2
    finished(context, target, root)


def finished(context: ForkServerContext, target: Callable[..., None], *arguments: object) -> None:
    """Run ``target(*arguments)`` in a process of its own to its good end."""
    process = context.Process(target=target, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0


def grown(path: Path, by: int) -> Callable[[], bool]:
    """Return a condition: that a file has ``by`` bytes more than now."""
    wanted = size(path) + by
    return lambda: size(path) >= wanted


def size(path: Path) -> int:
    """Return a file's bytes; 0 where there is none."""
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
    """Whether two nodes ended with the same bits."""
    a, b = final_weights(one), final_weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
