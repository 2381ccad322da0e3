"""Push models as a node does, without a node, in a fork of the fork server.

The token is read from standard input; the end of the input requests a stop. Each round's model is taken from
``root/model``. Prints the events, one JSON object per line.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from hivemind_exp.config import HubConfig
from hivemind_exp.events import Event
from hivemind_exp.hub.pusher import HubPusher, Outbox
from hivemind_exp.stop import StopFlag, StopRequested
from tests.support import own_environment
from tests.support.server_forks import ServerFork


def tell(event: Event, /) -> None:
    print(json.dumps({"event": event.event_name()} | event.model_dump()), flush=True)


class ForkedPusher(ServerFork):
    """A process that pushes."""

    def __init__(self, environment: Mapping[str, str], root: Path, rounds: Sequence[int]) -> None:
        super().__init__(_push, dict(environment), root, tuple(rounds))


def _push(stdin: int, stdout: int, environment: Mapping[str, str], root: Path, rounds: Sequence[int]) -> None:
    own_environment.become(environment, stdin, stdout, 2)
    stop = StopFlag()
    token = sys.stdin.readline().strip()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    pusher = HubPusher(HubConfig(repo="me/mine", every=1), Outbox(root / "hub"), token, tell)
    for round_ in rounds:
        if pusher.due(round_, last=False):
            pusher.push(round_, root / "model", f"---\ntags: []\n---\nround {round_}\n", "lab/base")
    try:
        pusher.finish(stop)
    except StopRequested:
        print(json.dumps({"event": "stopped"}), flush=True)
