"""What the processes that a node starts have in common: a pipe each way, and modules from where the node's are."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hivemind_exp.processes import messages as wire

_CHUNK = 2**16


def search_path() -> dict[str, str]:
    """Return the variable with which ``python -P -m hivemind_exp…`` finds this package, if one is needed."""
    root = str(Path(__file__).resolve().parents[1])
    installed = root in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    paths = [] if installed else [root]  # before the standard library, installed packages could shadow it
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    return {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}


def take_pipes() -> tuple[int, int]:
    """Keep the two pipes for messages, so that nothing printed by a library can break into them."""
    source, sink = os.dup(0), os.dup(1)
    with open(os.devnull, "r+b") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return source, sink


def messages(source: int) -> Iterator[Any]:
    """Yield what comes through a pipe, to its end. Raises ``WireError`` for what is no message."""
    decoder = wire.Decoder()
    while data := os.read(source, _CHUNK):
        yield from decoder.feed(data)


def send(sink: int, message: object) -> None:
    """Write a message whole."""
    data = memoryview(wire.encode(message))
    while data:
        data = data[os.write(sink, data) :]
