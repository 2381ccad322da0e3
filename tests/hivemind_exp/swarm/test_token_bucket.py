"""Rate limits for all peers together and per peer."""

from __future__ import annotations

import pytest

from hivemind_exp.swarm import token_bucket
from hivemind_exp.swarm.token_bucket import PeerBuckets, TokenBucket


def test_a_bucket_allows_a_burst_and_then_its_rate() -> None:
    now = [0.0]
    bucket = TokenBucket(2, 10, lambda: now[0])
    assert bucket.take(10)
    assert not bucket.take()
    now[0] = 0.5
    assert bucket.take()
    assert not bucket.take()
    now[0] = 1000.0
    assert not bucket.take(11)  # more than the burst, so never allowed at once
    assert not bucket.take(6, keep=5)
    assert bucket.take(5, keep=5)


def test_each_peer_has_its_own_bucket_and_the_most_recent_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_bucket, "_PEERS", 2)
    buckets = PeerBuckets(0.0, 2)
    assert [buckets.take("a") for _ in range(3)] == [True, True, False]
    assert buckets.take("b", 2)
    assert not buckets.take("a")  # this makes it the most recent peer
    assert buckets.take("c")
    assert not buckets.take("a")
    assert buckets.take("b")  # forgotten in the meantime; a new peer id would be free anyway
