"""Push models as a node does, without a node: ``python -m tests.support.push_once ROOT [ROUND…]``.

The token is read from standard input; the end of the input requests a stop. Each ROUND's model is taken from
ROOT/model. Prints the events, one JSON object per line.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

from hivemind_exp.config import HubConfig
from hivemind_exp.events import Event
from hivemind_exp.hub.pusher import HubPusher, Outbox
from hivemind_exp.stop import StopFlag, StopRequested


def tell(event: Event, /) -> None:
    print(json.dumps({"event": event.event_name()} | event.model_dump()), flush=True)


def main() -> None:
    root, stop = Path(sys.argv[1]), StopFlag()
    token = sys.stdin.readline().strip()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    pusher = HubPusher(HubConfig(repo="me/mine", every=1), Outbox(root / "hub"), token, tell)
    for round_ in map(int, sys.argv[2:]):
        if pusher.due(round_, last=False):
            pusher.push(round_, root / "model", f"---\ntags: []\n---\nround {round_}\n", "lab/base")
    try:
        pusher.finish(stop)
    except StopRequested:
        print(json.dumps({"event": "stopped"}), flush=True)


if __name__ == "__main__":
    main()
