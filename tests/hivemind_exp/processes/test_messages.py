"""Messages between processes."""

from __future__ import annotations

import pytest

from hivemind_exp.processes.messages import LARGEST, LENGTH, Decoder, WireError, encode

MESSAGES = [{"a": [1, 2.5, None, "é\ud800\x00", b"\xff"]}, [], "x" * 100_000, 2**64 - 1]


@pytest.mark.parametrize("step", [1, 7, 4096, 10**9])
def test_messages_survive_any_chunking(step: int) -> None:
    stream = b"".join(map(encode, MESSAGES))
    decoder = Decoder()
    found = [message for at in range(0, len(stream), step) for message in decoder.feed(stream[at : at + step])]
    assert found == MESSAGES


@pytest.mark.parametrize("stream", [LENGTH.pack(LARGEST + 1), LENGTH.pack(1) + b"\xc1", LENGTH.pack(2) + b"\x01\x01"])
def test_invalid_messages_are_refused(stream: bytes) -> None:
    with pytest.raises(WireError):
        list(Decoder().feed(stream))


def test_nothing_counts_after_an_invalid_message() -> None:
    decoder, junk = Decoder(), LENGTH.pack(1) + b"\xc1"
    messages = decoder.feed(encode(1) + junk + encode(2))
    assert next(messages) == 1
    for rest in (messages, decoder.feed(encode(3))):
        with pytest.raises(WireError):
            next(rest)
    assert decoder.broken
