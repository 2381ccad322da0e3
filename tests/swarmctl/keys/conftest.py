"""Run ``swarmctl keys`` in this process."""

from __future__ import annotations

import io
import sys

import pytest

from swarmctl import cli
from tests.support.saved_keys import Run


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run ``swarmctl keys`` with piped input; return exit code, stdout and stderr."""

    def run(*arguments: str, piped: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(piped))
        code = cli.run(["keys", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run
