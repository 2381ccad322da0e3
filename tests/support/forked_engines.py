"""Start a node's first API process (``hivemind_exp.offload.process``) without its imports.

It is forked before the node opens its journal: SQLite's locks do not survive a fork. One that replaces it is started
as for users.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Mapping

from hivemind_exp.config import Config
from hivemind_exp.offload.judge import api_configs
from hivemind_exp.offload.process import client, server
from swarmctl.nodes.frozen import ENGINE
from tests.support.forked_children import ForkedChild


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
