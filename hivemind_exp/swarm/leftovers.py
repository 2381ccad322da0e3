"""A daemon outlived its node, or left its sockets: what a node notes when it starts one, and clears up when it comes
back."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import psutil

_SOCKETS = "/tmp/hivemind-"
"""Where hivemind puts them (its ``P2P._UNIX_SOCKET_PREFIX``). Nothing else is ever removed."""


def note(path: Path, pid: int, sockets: tuple[str, ...]) -> None:
    """Write down a daemon that was just started. Does nothing where that fails: it would only be litter."""
    with contextlib.suppress(OSError, psutil.Error):
        started = psutil.Process(pid).create_time()
        path.write_text(json.dumps({"pid": pid, "started": started, "sockets": list(sockets)}), encoding="ascii")


def reap(path: Path) -> list[str]:
    """End the daemon that is written down, and remove its sockets. Returns what was found, for people.

    Only for whoever holds the node's lock: nobody else's daemon is written there.
    """
    try:
        noted = json.loads(path.read_bytes())
        pid, started, sockets = (
            int(noted["pid"]),
            float(noted["started"]),
            [Path(str(name)) for name in noted["sockets"]],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return []
    found = []
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        # Its start tells it from whatever else may bear the number by now.
        if abs(process.create_time() - started) < 0.1 and process.status() != psutil.STATUS_ZOMBIE:
            process.kill()
            process.wait(2)
            found.append(f"a daemon (pid {pid})")
    for socket in sockets:
        if str(socket).startswith(_SOCKETS) and ".." not in socket.parts and socket.is_socket():
            with contextlib.suppress(OSError):
                socket.unlink()
                found.append(f"its socket {socket.name}")
    with contextlib.suppress(OSError):
        path.unlink()
    return found
