"""Start nodes' API processes (``hivemind_exp.offload.process``) without their imports.

That of a node in the test's process is a fork of the fork server. That of a node in a process of its own is a fork of
this process, before the node opens its journal: SQLite's locks do not survive a fork. One that replaces it is started
as for users.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import ClassVar

from hivemind_exp.config import Config
from hivemind_exp.offload.judge import api_configs
from hivemind_exp.offload.process import client, server
from swarmctl.nodes.frozen import ENGINE
from tests.support import own_environment
from tests.support.forked_children import ForkedChild
from tests.support.server_forks import ServerFork


@contextlib.contextmanager
def forked_engine(config: Config) -> Iterator[None]:
    """Let the node that runs inside the block have a fork of this process as its first API process, if it has one."""
    if not api_configs(config):
        yield
        return
    spare: list[ForkedChild] = [ForkedChild(server.main, ENGINE)]
    spawn = client.spawn

    def use(environment: Mapping[str, str]) -> ForkedChild | subprocess.Popen[bytes]:
        if not spare:
            return spawn(environment)
        spare[0].start(environment)
        return spare.pop()

    client.spawn = use  # type: ignore[assignment]
    try:
        yield
    finally:
        client.spawn = spawn
        for unused in spare:
            unused.discard()


class ForkedEngine(ServerFork):
    """An API process for nodes in this process. Use it as ``client.spawn``."""

    running: ClassVar[list[ForkedEngine]] = []
    """Those that this process has started and that may not have ended."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__(_serve, dict(environment))
        self.running[:] = [*(each for each in self.running if each.poll() is None), self]


def _serve(stdin: int, stdout: int, environment: Mapping[str, str]) -> None:
    own_environment.become(environment, stdin, stdout, 2)
    sys.exit(server.main(os.getppid()))
