"""The program of ``python_template``: ``start_forked.py SOCKET [OPTION...] -c CODE``."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys


def _inherited() -> list[int]:
    """Return the descriptors that this process was given."""
    found = []
    for number in map(int, os.listdir("/dev/fd")):
        try:
            if os.get_inheritable(number):
                found.append(number)
        except OSError:  # the one with which the directory was read
            pass
    return found


def _main(path: str, *arguments: str) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the fork decides how it ends
    numbers = _inherited()
    order = {
        "arguments": arguments,
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "numbers": numbers,
    }
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(path)
        socket.send_fds(line, [b"!"], numbers)
        line.sendall(json.dumps(order).encode() + b"\n")
        for number in numbers:
            os.close(number)  # so that the other end of a pipe notices when the fork closes its own
        return int(line.recv(16) or b"1")  # nothing: it was killed


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
