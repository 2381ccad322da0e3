"""A run whose trainer, the stand-in, plays rounds."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.command_line import ROOT, STAND_IN, read
from tests.support.piped_swarmctl import PipedSwarmctl
from tests.support.waiting import until

Run = PipedSwarmctl | subprocess.Popen[str]


@pytest.fixture
def started(home: Path, tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Start ``run`` and return once its trainer runs rounds. ``as_users_do``: not forked.

    Afterwards, no process of a forked one may be left running.
    """
    forked: list[PipedSwarmctl] = []

    def start(act: str = "run", rounds: int = 0, *options: str, as_users_do: bool = False) -> Run:
        words = ("run", "-p", "demo", "--rounds", str(rounds), *options)
        process: Run
        if as_users_do:
            process = subprocess.Popen(
                [*STAND_IN, *words],
                cwd=ROOT,
                env=os.environ | {"STAND_IN": act},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
            )
        else:
            place = tmp_path / f"started-{len(forked)}"
            place.mkdir()
            process = PipedSwarmctl(words, {"STAND_IN": act}, place, stand_in=True)
            forked.append(process)
        until(lambda: b'"event": "round"' in (read(home / "nodes/demo/events.jsonl")))
        return process

    yield start
    for process in forked:
        process.kill()
        until(lambda process=process: not process.left())  # type: ignore[misc]
