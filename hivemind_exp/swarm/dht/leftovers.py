"""A daemon that outlived its node, or left its sockets: known by their names, which come from the node's key file.

So nothing needs to be written down, and a node that was killed at whatever moment leaves nothing that it does not find.
"""

import contextlib
import hashlib
import os
from pathlib import Path

import psutil

_DAEMON = "p2pd"


def socket_prefix(key: Path) -> str:
    """Return how the paths of the sockets begin through which the node with this key file talks to its daemon."""
    mark = hashlib.sha256(os.path.realpath(key).encode()).hexdigest()[:12]
    return f"/tmp/hivemind-{mark}-"


def reap(key: Path) -> list[str]:
    """End the daemon of the node with this key file, and remove its sockets. Returns what was found, for people.

    Only for whoever holds the node's lock: it has no daemon yet, or needs it no more.
    """
    prefix = socket_prefix(key)
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            # Most are told apart by their name; reading all command lines would take a while.
            if process.name() == _DAEMON and any(prefix in word for word in process.cmdline()):
                process.kill()
                process.wait(2)
                found.append(f"a daemon (pid {process.pid})")
    for socket in sorted(Path(prefix).parent.glob(f"{Path(prefix).name}*.sock")):
        if socket.is_socket():
            with contextlib.suppress(OSError):
                socket.unlink()
                found.append(f"its socket {socket.name}")
    return found
