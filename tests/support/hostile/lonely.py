"""A node in a process of its own, which waits to be killed."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.support.hostile.wire import Peers
from tests.support.server_forks import ServerFork


class LonelyNode(ServerFork):
    """The process. It writes the node's address to ``stdout``."""

    def __init__(self, root: Path) -> None:
        """``root``: the directory for ``Peers``."""
        super().__init__(_wait, root)


def _wait(_stdin: int, stdout: int, root: Path) -> None:
    os.write(stdout, " ".join(Peers(root).start("first").addresses()).encode() + b"\n")
    time.sleep(600)
