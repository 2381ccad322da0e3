"""Read what a forked ``swarmctl`` prints while it runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.forked_swarmctl import ForkedSwarmctl


class PipedSwarmctl(ForkedSwarmctl):
    """A ``ForkedSwarmctl`` whose output comes through pipes, as that of a ``Popen`` with ``subprocess.PIPE``."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], place: Path, **how: Any) -> None:
        """``how``: options of ``ForkedSwarmctl``."""
        for name in ("out", "said"):
            os.mkfifo(place / name)
        super().__init__(arguments, environment, place, **how)
        self.stdout, self.stderr = (open(place / name, encoding="utf-8") for name in ("out", "said"))  # noqa: SIM115

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end and return the rest of the output, which has to fit into the pipes' buffers (64 KiB)."""
        self.wait(timeout)
        with self.stdout, self.stderr:
            return self.stdout.read(), self.stderr.read()
