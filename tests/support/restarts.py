"""Stop or kill nodes at any moment, restart them, and compare their final weights."""

from __future__ import annotations

import multiprocessing
import os
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from multiprocessing import forkserver, resource_tracker, spawn
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from safetensors.torch import load_file

from hivemind_exp.events import Event
from hivemind_exp.journal.records import Manifest, TrainingRow
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.unusable import TEST_MESSAGES
from hivemind_exp.stop import StopFlag
from tests.support.python_template import VARIABLE
from tests.support.recorded_events import Events

if TYPE_CHECKING:
    from tests.support.fake_api.remote import RemoteServer


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
    usual = spawn.get_executable()
    with patch.dict(os.environ, ours, clear=True):
        resource_tracker.ensure_running()
        context.set_executable(os.environ.get(VARIABLE, usual))
        forkserver.ensure_running()
        context.set_executable(usual)
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
        time.sleep(0.004)
    process.join(pause_s)
    alive = process.exitcode is None
    process.kill()
    process.join()
    return alive


def lives(
    target: Callable[..., None],
    root: Path,
    *arguments: object,
    seen: dict[int, bytes],
    times: int,
    chance: random.Random,
    growth: range,
    longest_s: float,
) -> Iterator[None]:
    """Kill ``target(root, …)`` ``times`` times, each a moment after it has logged ``growth`` more bytes; let it finish.

    Yields after each of these lives. The manifests of all lives are collected in ``seen``, by step. Asserts that none
    of them ever changes, and that at least half of the kills hit a running process.
    """
    context, kills = processes(), 0
    for life in range(times + 1):
        if life < times:
            told = grown(root / "events.jsonl", chance.randrange(growth.start, growth.stop))
            kills += killed(context, target, root, *arguments, when=told, pause_s=chance.uniform(0, longest_s))
        else:
            assert kills >= times // 2
            finished(context, target, root, *arguments)
        for step, body in manifests(root).items():
            assert seen.setdefault(step, body) == body
        yield


def killed_often(
    target: Callable[..., None],
    root: Path,
    *arguments: object,
    times: int,
    chance: random.Random,
    growth: range,
    longest_s: float,
) -> dict[int, bytes]:
    """Do as ``lives`` does, look at nothing in between, and return what it has seen."""
    seen: dict[int, bytes] = {}
    for _ in lives(target, root, *arguments, seen=seen, times=times, chance=chance, growth=growth, longest_s=longest_s):
        pass
    return seen


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


def read(root: Path, query: str) -> list[Any]:
    """Return the rows of a query to a node's journal; none if it has no tables yet."""
    journal = NodeFiles(root).journal
    if not journal.exists():
        return []
    with closing(sqlite3.connect(journal)) as db:
        (table,) = db.execute("SELECT COUNT(*) FROM sqlite_master WHERE name='evaluations'").fetchone()
        return db.execute(query).fetchall() if table else []


def manifests(root: Path) -> dict[int, bytes]:
    """Return the manifests in a node's journal, by step."""
    return dict(read(root, "SELECT step, body FROM manifests"))


def completions(root: Path) -> list[Any]:
    """Return all of a node's completions, with their slots and outcomes."""
    fields = "round, question, idx, kind, source, text, ids, truncated, outcome"
    return read(root, f"SELECT {fields} FROM completions ORDER BY round, question, idx")


def batch(body: bytes) -> tuple[int, tuple[TrainingRow, ...]]:
    """Return what a step learns from: its seed and rows, without a text's lag."""
    manifest = Manifest.unpack(body)
    return manifest.seed, tuple(replace(row, lag=None) for row in manifest.rows)


def same_batches(seen: dict[int, bytes], expected: dict[int, bytes]) -> bool:
    """Whether the steps in ``expected`` learned from the same rows as those in ``seen``."""
    return all(batch(seen[step]) == batch(body) for step, body in expected.items())


def asked(server: RemoteServer) -> Counter[str]:
    """Return how often each prompt was requested, without the test request."""
    return Counter(entry.digest for entry in server.settled().chats if entry.messages != list(TEST_MESSAGES))
