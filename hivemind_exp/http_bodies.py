"""Limits on what is read of HTTP responses.

A server may send a body without end, or one that decompresses to far more than was sent.
"""

import time
from contextlib import closing, suppress

import httpx2

LARGEST_ERROR = 65_536
"""The number of bytes that are read of an error's body, after decompression."""
ERROR_S = 5.0
"""Time limit for an error's body. The status is known by then."""
_OF_THE_BODY_SENT = ("content-encoding", "content-length", "transfer-encoding")


def is_compressed_twice(response: httpx2.Response) -> bool:
    """Whether a body is compressed more than once. No service does this, and a small one could take hours to read."""
    codings = response.headers.get_list("content-encoding", split_commas=True)
    return sum(coding.strip().lower() not in ("", "identity") for coding in codings) > 1


def with_content(response: httpx2.Response, content: bytes) -> httpx2.Response:
    """Return a response with the same status and headers, and with ``content`` as its body."""
    kept = [(name, value) for name, value in response.headers.multi_items() if name not in _OF_THE_BODY_SENT]
    return httpx2.Response(response.status_code, headers=kept, content=content, request=response.request)


def read_limited(response: httpx2.Response, most: int, seconds: float) -> bytes:
    """Read a body, at most ``most`` bytes of it and for about ``seconds``.

    If an error's body breaks off, return what arrived. It is decompressed afterwards: until then, a part of it may
    bring no byte, so that no limit could act.
    """
    broken = () if response.is_success else (httpx2.HTTPError,)
    sent, content, end = bytearray(), bytearray(), time.monotonic() + seconds
    with closing(response), suppress(*broken):
        for part in () if is_compressed_twice(response) else response.iter_raw():
            sent += part
            if len(sent) >= most or time.monotonic() > end:
                break
    plain = httpx2.Response(
        response.status_code,
        headers=response.headers,
        stream=httpx2.ByteStream(bytes(sent[:most])),
        request=response.request,
    )
    with suppress(*broken):
        for part in plain.iter_bytes():
            content += part
            if len(content) >= most:
                break
    return bytes(content[:most])
