"""What a node that was killed leaves behind: its daemon, and the sockets between both."""

import contextlib
import hashlib
import os
from pathlib import Path

import psutil


def socket_prefix(key: Path) -> str:
    """Return the path prefix of the sockets between the node with this key file and its daemon."""
    mark = hashlib.sha256(os.path.realpath(key).encode()).hexdigest()[:12]
    return f"/tmp/hivemind-{mark}-"


def kill_leftovers(key: Path) -> list[str]:
    """Kill the daemon of the node with this key file, and remove its sockets. Returns what was found, as display text.

    Call this only while holding the node's lock, before its daemon has started or when it is no longer needed.
    """
    prefix = socket_prefix(key)
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            # Check the name first: reading the command lines of all processes would be slow.
            if process.name() == "p2pd" and any(prefix in word for word in process.cmdline()):
                process.kill()
                process.wait(2)
                found.append(f"a daemon (pid {process.pid})")
    for socket in sorted(Path(prefix).parent.glob(f"{Path(prefix).name}*.sock")):
        if socket.is_socket():
            with contextlib.suppress(OSError):
                socket.unlink()
                found.append(f"its socket {socket.name}")
    return found
