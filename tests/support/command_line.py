"""Run ``swarmctl`` as a separate process, with the real trainer or a stand-in, and write profiles for it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.support.patience import finish

ROOT = Path(__file__).parents[2]
"""The repository root, in which tests start processes."""
SWARMCTL = [sys.executable, "-m", "swarmctl"]
STAND_IN = [sys.executable, "-m", "tests.support.run_fake_trainer"]
"""``swarmctl`` with a trainer that only emits events; ``$STAND_IN`` selects its behavior (see ``fake_trainer``)."""
Cli = Callable[..., "subprocess.CompletedProcess[str]"]
UNTRAINED = """
extends = "demo"
[warmup]
steps = 0
[eval]
questions = 4
"""
"""The demo without its warm-up: a round takes under a second. More tables may follow."""
PRICED_BOX = """
extends = "demo"
[providers.box]
base_url = "http://127.0.0.1:9/v1"
model = "test-model"
[offload.prices.box]
input = 2.0
output = 8.0
"""
"""The demo with a provider of its own that has a price."""


def run_process(
    command: Sequence[str], *, timeout: float = 30, input: str | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end in the repository root and return the result. ``options`` are those of Popen.

    Kills it, and raises ``TimeoutExpired``, after ``timeout`` seconds (``Patience``). ``input``: what it reads.
    """
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"} | options
    if input is not None:
        options["stdin"] = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, **options) as process:
        try:
            out, err = finish(process, timeout, given=input)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def write_profile(home: Path, name: str, text: str) -> Path:
    """Save a user profile."""
    path = home / "profiles" / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path) -> bytes:
    """Return a file's content; nothing if it does not exist."""
    return path.read_bytes() if path.exists() else b""


def told(done: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    """Return the error and the suggested command. Asserts that nothing follows them, and that there is no traceback."""
    *_, cause, following = done.stderr.splitlines()
    assert cause.startswith("error: "), done.stderr
    assert following.startswith("  try: "), done.stderr
    assert "Traceback" not in done.stderr
    return cause, following.removeprefix("  try: ")


def next_command(stderr: str) -> list[str]:
    """Return the arguments of the first ``run`` command that was printed."""
    commands = [shlex.split(line.removeprefix("  try: ")) for line in stderr.splitlines() if line.startswith("  ")]
    words = next(words for words in commands if "run" in words)
    return words[words.index("run") :]
