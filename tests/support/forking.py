"""Lets scripts start a ``swarmctl`` that is forked (see ``forked_swarmctl``): ``python FILE SOCKET ARGUMENT...``.

The program that a script starts asks the test for it, and waits for its end. It has the script's streams and variables.
"""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def command_for_scripts() -> Iterator[str]:
    """Yield a command for a shell, in place of ``swarmctl``. What it has started is killed at the end."""
    from tests.support.forked_swarmctl import ForkedSwarmctl

    started: list[ForkedSwarmctl] = []

    def answer(line: socket.socket, place: Path) -> None:
        with line, line.makefile() as asked:
            order = json.loads(asked.readline())
            stdin, output, errors = (f"/proc/{order['pid']}/fd/{number}" for number in range(3))
            process = ForkedSwarmctl(
                order["arguments"], order["environment"], place, output=output, errors=errors, stdin=Path(stdin)
            )
            started.append(process)
            line.sendall(str(process.wait()).encode())

    def listen(server: socket.socket, root: Path) -> None:
        while True:
            try:
                line, _ = server.accept()
            except OSError:  # it has been closed
                return
            place = Path(tempfile.mkdtemp(dir=root))
            threading.Thread(target=answer, args=(line, place), daemon=True).start()

    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as server:
        path = f"{name}/socket"
        server.bind(path)
        server.listen()
        threading.Thread(target=listen, args=(server, Path(name)), daemon=True).start()
        try:
            yield shlex.join([sys.executable, "-S", __file__, path])
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for process in started:
                process.kill()


def _main(path: str, *arguments: str) -> int:
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(path)
        order = {"arguments": arguments, "environment": dict(os.environ), "pid": os.getpid()}
        line.sendall(json.dumps(order).encode() + b"\n")
        return int(line.makefile().readline())


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
