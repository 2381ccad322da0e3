"""Messages between the node and its workers: a four-byte length, then msgpack."""

import os
import struct
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack

LENGTH = struct.Struct(">I")
LARGEST = 64 * 2**20
"""Bytes of the largest message a worker may send; a longer one means that it no longer speaks the protocol."""


class WireError(Exception):
    """The other side sent something that is no message."""


def encode(message: object) -> bytes:
    """Return the frame of ``message``. Lone surrogates pass: completions may hold them."""
    body: bytes = msgpack.packb(message, unicode_errors="surrogatepass")
    return LENGTH.pack(len(body)) + body


class Decoder:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """Yield the messages that ``data`` completes.

        Raises:
            WireError: a frame is too long or holds no msgpack.
        """
        self._buffer += data
        start = 0
        try:
            while len(self._buffer) - start >= LENGTH.size:
                (size,) = LENGTH.unpack_from(self._buffer, start)
                if size > LARGEST:
                    raise WireError(f"a message of {size} bytes")
                end = start + LENGTH.size + size
                if end > len(self._buffer):
                    break
                body = bytes(self._buffer[start + LENGTH.size : end])
                start = end
                try:
                    message = msgpack.unpackb(body, unicode_errors="surrogatepass")
                except (ValueError, msgpack.UnpackException) as error:
                    raise WireError(str(error)) from error
                yield message
        finally:
            del self._buffer[:start]


_CHUNK = 2**16


def search_path() -> dict[str, str]:
    """Return the variable with which ``python -P -m hivemind_exp…`` finds this package, if one is needed."""
    root = str(Path(__file__).resolve().parents[2])
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
    decoder = Decoder()
    while data := os.read(source, _CHUNK):
        yield from decoder.feed(data)


def send(sink: int, message: object) -> None:
    """Write a message whole."""
    data = memoryview(encode(message))
    while data:
        data = data[os.write(sink, data) :]
