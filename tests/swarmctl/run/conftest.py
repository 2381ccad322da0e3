"""A run whose trainer, the stand-in, plays rounds."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command_line import ROOT, STAND_IN, read
from tests.support.waiting import until


@pytest.fixture
def started(home: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start ``run`` and return once its trainer runs rounds."""

    def start(act: str = "run", rounds: int = 0, *options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*STAND_IN, "run", "-p", "demo", "--rounds", str(rounds), *options],
            cwd=ROOT,
            env=os.environ | {"STAND_IN": act},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        until(lambda: b'"event": "round"' in (read(home / "nodes/demo/events.jsonl")))
        return process

    return start
