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
"""Largest message that a worker may send, in bytes. A longer one means that it no longer follows the protocol."""


class WireError(Exception):
    """The other side sent an invalid message."""


def encode(message: object) -> bytes:
    """Return ``message`` as a frame. Lone surrogates are allowed, since completions may contain them."""
    body: bytes = msgpack.packb(message, unicode_errors="surrogatepass")
    return LENGTH.pack(len(body)) + body


class Decoder:
    """Splits a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.broken = False
        """Whether an invalid message has arrived. Nothing after it counts."""

    def feed(self, data: bytes) -> Iterator[Any]:
        """Yield the messages that ``data`` completes.

        Raises:
            WireError: a frame is too long or is not msgpack, now or earlier.
        """
        if self.broken:
            raise WireError("an earlier message was invalid")
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
        except WireError:
            self.broken = True
            raise
        finally:
            del self._buffer[:start]


_CHUNK = 2**16


def search_path() -> dict[str, str]:
    """Return the environment variable that ``python -P -m hivemind_exp…`` needs to find this package, if any."""
    root = str(Path(__file__).resolve().parents[2])
    installed = root in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    # PYTHONPATH comes before the standard library: a site-packages directory there could shadow it.
    paths = [] if installed else [root]
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    return {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}


def take_pipes() -> tuple[int, int]:
    """Reserve the two pipes for messages, so that nothing a library prints can get between them."""
    source, sink = os.dup(0), os.dup(1)
    with open(os.devnull, "r+b") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return source, sink


def messages(source: int) -> Iterator[Any]:
    """Yield the messages from a pipe until it closes. Raises ``WireError`` for an invalid message."""
    decoder = Decoder()
    while data := os.read(source, _CHUNK):
        yield from decoder.feed(data)


def send(sink: int, message: object) -> None:
    """Write a whole message."""
    data = memoryview(encode(message))
    while data:
        data = data[os.write(sink, data) :]
