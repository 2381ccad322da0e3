"""A process's end is said in words that help."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hivemind_exp.processes.ending import how_ended


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise SystemExit(3)", "exited with code 3"),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            "was killed (SIGKILL), probably by the kernel because memory ran out (close other programs or use a "
            "smaller model)",
        ),
        ("os.kill(os.getpid(), signal.SIGTERM)", "was ended by SIGTERM"),
        ("os.abort()", "crashed (SIGABRT)"),
    ],
)
def test_the_end_of_a_process_is_said(code: str, words: str) -> None:
    status = subprocess.run([sys.executable, "-c", f"import os, signal; {code}"], check=False).returncode
    assert how_ended(status) == words


def test_what_helps_can_be_named() -> None:
    assert how_ended(-9, helps="--gpus 1").endswith("memory ran out (--gpus 1)")
    assert how_ended(-40) == "crashed (signal 40)"
