"""Bundles survive packing and unpacking, and anything else is refused."""

from __future__ import annotations

import contextlib
import hashlib
import tracemalloc
import zlib
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_exp.peers.bundle import (
    LARGEST_BUNDLE,
    LONGEST_TEXT,
    MOST_GROUPS,
    Bundle,
    BundleRefused,
    SharedGroup,
    pack_fitting,
    unpack,
)

SWARM, PEER = "5a" * 32, "12D3KooWPeer"
GROUP = SharedGroup(
    task="spelling",
    index=3,
    question="ab" * 32,
    kind="policy",
    label="tiny",
    outcomes=(1000, 0),
    cut=(False, True),
    texts=("<answer>é\x1b[31m</answer>", ""),
    ids=((1, 2), (3,)),
    logps=((-1.0, -2.5), (-0.5,)),
)
BUNDLE = Bundle(SWARM, PEER, 7, "answer", (GROUP,))


def read(data: bytes) -> Bundle:
    return unpack(data, peer=PEER, swarm=SWARM)


def body(**changes: Any) -> list[Any]:
    """Return the unpacked form of the bundle, with fields of its group replaced."""
    plain = msgpack.unpackb(BUNDLE.pack())
    names = ["task", "index", "question", "kind", "label", "outcomes", "cut", "texts", "ids", "logps"]
    for name, value in changes.items():
        plain[5][0][names.index(name)] = value
    return plain  # type: ignore[no-any-return]


def test_a_bundle_survives_packing_and_unpacking() -> None:
    assert read(BUNDLE.pack()) == BUNDLE
    text_only = replace(BUNDLE, groups=(replace(GROUP, ids=(), logps=()),))
    assert read(text_only.pack()) == text_only


def test_a_bundle_names_levels_only_if_a_group_has_one() -> None:
    plain = BUNDLE.pack()
    assert hashlib.sha256(plain).hexdigest() == "ae0d0364c97ec40d08a14f081ca78b1a1f38b96474c067a8d00e48c898837a7f", (
        "earlier versions read it"
    )
    assert msgpack.unpackb(plain)[0] == 1
    for levels in ((0, None), (None, 7)):
        groups = tuple(replace(GROUP, question=f"{n:064x}", level=level) for n, level in enumerate(levels))
        packed = replace(BUNDLE, groups=groups).pack()
        assert msgpack.unpackb(packed)[0] == 2
        assert [group.level for group in read(packed).groups] == list(levels)
    level = replace(BUNDLE, groups=(replace(GROUP, level=3),)).pack()
    for changed in (
        level[:-1],
        level[:-1] + b"\xcd\x01\x00",
        level[:-1] + b"\xc0",
        level[:-1] + b"\xff",
        level + b"\x00",
    ):
        with pytest.raises(BundleRefused):
            read(changed)


def test_text_that_cannot_be_encoded_is_replaced_when_packed() -> None:
    broken = replace(BUNDLE, groups=(replace(GROUP, texts=("\udcff", "x")),))
    assert read(broken.pack()).groups[0].texts == ("?", "x")


@pytest.mark.parametrize("cut", range(0, 150, 7))
def test_a_truncated_bundle_is_refused(cut: int) -> None:
    with pytest.raises(BundleRefused):
        read(BUNDLE.pack()[:cut])


HOSTILE = {
    "nothing": b"",
    "another type": msgpack.packb({"v": 1}),
    "more behind it": BUNDLE.pack() + b"\x00",
    "a field more": msgpack.packb([*body(), 1]),
    "another version": msgpack.packb([2, *body()[1:]]),
    "another swarm": replace(BUNDLE, swarm="00" * 32).pack(),
    "another peer": replace(BUNDLE, peer="12D3KooWOther").pack(),
    "a negative round": msgpack.packb([*body()[:3], -1, *body()[4:]]),
    "a round that is true": msgpack.packb([*body()[:3], True, *body()[4:]]),
    "a round beyond all": msgpack.packb([*body()[:3], 2**60, *body()[4:]]),
    "bad UTF-8": BUNDLE.pack().replace("é".encode(), b"\xff\xfe"),
    "bytes for text": msgpack.packb(body(texts=[b"a", b"b"])),
    "a list for text": msgpack.packb(body(texts=[["a"], "b"])),
    "a number for text": msgpack.packb(body(texts=[1, "b"])),
    "too long a text": msgpack.packb(body(texts=["a" * (LONGEST_TEXT + 1), "b"])),
    "a short digest": msgpack.packb(body(question=b"ab")),
    "an unknown kind": msgpack.packb(body(kind="own")),
    "an outcome above one": msgpack.packb(body(outcomes=b"\xff\xff\x00\x00")),
    "outcomes cut off": msgpack.packb(body(outcomes=b"\x00")),
    "too few outcomes": msgpack.packb(body(outcomes=b"\x00\x00")),
    "no completion": msgpack.packb(body(texts=[], outcomes=b"", cut=b"", ids=[], logps=[])),
    "ids without log-probabilities": msgpack.packb(body(logps=[])),
    "no token": msgpack.packb(body(ids=[b"", b""], logps=[b"", b""])),
    "log-probabilities of nan": msgpack.packb(body(logps=[b"\x00\x00\xc0\x7f" * 2, b"\x00\x00\xc0\x7f"])),
    "log-probabilities above nought": msgpack.packb(body(logps=[b"\x00\x00\x80\x3f" * 2, b"\x00\x00\x80\x3f"])),
    "one question twice": msgpack.packb([*body()[:5], [body()[5][0]] * 2]),
    "an extension": msgpack.packb([*body()[:5], msgpack.ExtType(4, b"x" * 100)]),
    "a timestamp": msgpack.packb([*body()[:5], msgpack.Timestamp(1, 1)]),
    "an array of 4 billion": b"\x96\x01\xdd\xff\xff\xff\xff",
    "a text of 2 GB": b"\x96\xdb\x7f\xff\xff\xff",
    "nested without end": b"\x91" * 100_000,
    "groups nested without end": msgpack.packb(body()[:5])[:1].replace(b"\x95", b"\x96")
    + msgpack.packb(body()[:5])[1:]
    + b"\x91" * 100_000,
    "two million maps": b"\xdd\x00\x20\x00\x00" + b"\x80" * (LARGEST_BUNDLE - 5),
    "compressed": zlib.compress(b"a" * 2**20),
    "too many bytes": b"\x00" * (LARGEST_BUNDLE + 1),
    "one byte that is never used": b"\xc1" * 10,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_refused_without_building_objects(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BundleRefused):
            read(HOSTILE[name])
        assert tracemalloc.get_traced_memory()[1] < 4 * len(HOSTILE[name]) + 2**20
    finally:
        tracemalloc.stop()


def test_a_refusal_does_not_quote_the_bundle() -> None:
    with pytest.raises(BundleRefused) as refusal:
        read(msgpack.packb(body(kind="\x1b[31mwatch this")))
    assert "\x1b" not in str(refusal.value)
    assert "watch" not in str(refusal.value)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=6))
def test_changed_bytes_raise_only_bundle_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(BUNDLE.pack())
    for place, value in changes:
        data[place % len(data)] = value
    with contextlib.suppress(BundleRefused):
        assert read(bytes(data)).peer == PEER


@given(st.binary(max_size=300))
def test_random_bytes_raise_only_bundle_refused(data: bytes) -> None:
    with pytest.raises(BundleRefused):
        read(data)


def test_groups_that_do_not_fit_are_left_out_whole() -> None:
    large = [replace(GROUP, question=f"{n:064x}", texts=("é" * 30_000, "x"), ids=(), logps=()) for n in range(70)]
    data, count = pack_fitting(replace(BUNDLE, groups=tuple(large)))
    assert len(data) <= LARGEST_BUNDLE
    assert 30 < count < MOST_GROUPS
    assert read(data).groups == tuple(large[:count])
    small = [replace(GROUP, question=f"{n:064x}") for n in range(70)]
    assert pack_fitting(replace(BUNDLE, groups=tuple(small)))[1] == MOST_GROUPS
    with pytest.raises(BundleRefused):
        replace(BUNDLE, groups=tuple(small)).pack()
