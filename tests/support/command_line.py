"""``swarmctl`` as a process of its own, with the real trainer or a stand-in, and the profiles that it runs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
"""The repository: where the processes of tests are started."""
SWARMCTL = [sys.executable, "-m", "swarmctl"]
STAND_IN = [sys.executable, "-m", "tests.support.run_fake_trainer"]
"""``swarmctl`` whose trainer only tells events; ``$STAND_IN`` says which (see ``fake_trainer``)."""
Cli = Callable[..., "subprocess.CompletedProcess[str]"]
UNTRAINED = """
extends = "demo"
[node]
fresh = false
[warmup]
steps = 0
[eval]
questions = 4
"""
"""The demo without its warm-up, whose node goes on: rounds are played within a second. More tables may follow."""


def run_process(command: Sequence[str], *, timeout: float = 30, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, from the repository's root; return what it said. ``options``: those of Popen."""
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=timeout, check=False, **options
    )


def write_profile(home: Path, name: str, text: str) -> Path:
    """Save a profile of the user's."""
    path = home / "profiles" / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def told(done: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    """Return the error and the command to type next; there is nothing after them, and no traceback."""
    *_, cause, following = done.stderr.splitlines()
    assert cause.startswith("error: "), done.stderr
    assert following.startswith("  try: "), done.stderr
    assert "Traceback" not in done.stderr
    return cause, following.removeprefix("  try: ")
