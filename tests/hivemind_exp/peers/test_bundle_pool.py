"""The pool keeps recent bundles, within its limits."""

from __future__ import annotations

from dataclasses import replace

from hivemind_exp.peers.bundle import BUNDLES_A_PEER, OFFERED, RECENT_S, Bundle, BundlePool
from hivemind_exp.peers.vetting import LONG, MOST_COPIES, SeenTexts, is_repetition, likeness, sketch
from tests.support.peers import SWARM, shared_group

GROUP = shared_group(0)


def bundle(peer: str, round_: int = 0, stage: str = "answer", question: str = "ab" * 32) -> Bundle:
    return Bundle(SWARM, peer, round_, stage, (replace(GROUP, question=question),))


def test_old_bundles_are_dropped() -> None:
    now = [0.0]
    pool = BundlePool(clock=lambda: now[0])
    pool.put(bundle("a"), 10)
    now[0] = RECENT_S / 2
    pool.put(bundle("b"), 10)
    now[0] = RECENT_S + 1
    assert set(pool.offers("answer")) == {"b"}
    assert pool.size == 10
    now[0] = 2 * RECENT_S
    assert pool.offers("answer") == {}


def test_the_latest_bundles_of_a_peer_are_kept_and_offered_first() -> None:
    pool = BundlePool()
    for round_ in range(BUNDLES_A_PEER + 10):
        pool.put(bundle("a", round_), 10)
        pool.put(bundle("a", round_, "critique"), 10)
    assert pool.size == 10 * BUNDLES_A_PEER
    rounds = [offer.round for offer in pool.offers("answer")["a"]]
    assert rounds == list(range(BUNDLES_A_PEER + 9, BUNDLES_A_PEER + 9 - OFFERED, -1))


def test_the_first_bundles_of_a_stage_are_kept_when_a_fast_node_shares_many() -> None:
    pool = BundlePool()
    for part in range(30):
        pool.put(bundle("a", 3, question=f"{part:064x}"), 10)
    assert len(list(pool.bundles(3, "answer"))) == 30


def test_a_resent_bundle_replaces_the_first() -> None:
    pool = BundlePool()
    for _ in range(3):
        pool.put(bundle("a"), 10)
    pool.put(bundle("a", question="cd" * 32), 10)  # further along the same round
    assert len(pool.offers("answer")["a"]) == 2
    assert pool.size == 20


def test_stages_are_kept_separate() -> None:
    pool = BundlePool()
    pool.put(bundle("a", 3, "critique"), 10)
    pool.put(bundle("a", 3, "answer"), 10)
    pool.put(bundle("b", 4, "critique"), 10)
    assert [found.peer for found in pool.bundles(3, "critique")] == ["a"]
    assert set(pool.offers("answer")) == {"a"}


def test_a_flood_does_not_push_out_other_peers() -> None:
    pool = BundlePool(most_bytes=1000)
    pool.put(bundle("quiet"), 100)
    for n in range(100):
        pool.put(bundle(f"loud {n % 3}", n), 250)
        assert pool.size <= 1000
    assert "quiet" in pool.offers("answer")


def test_a_group_is_offered_until_it_is_discarded() -> None:
    pool = BundlePool()
    pool.put(bundle("a"), 10)
    (offer,) = pool.offers("answer")["a"]
    pool.discard(offer)
    pool.discard(offer)
    assert pool.offers("answer") == {}
    assert [found.peer for found in pool.bundles(0, "answer")] == ["a"]
    pool.discard_peer("a")
    assert list(pool.bundles(0, "answer")) == []


PROSE = (
    "To find the sum, add the units first, then the tens, and carry what is above nine. The units are four and eight, "
    "which makes twelve: write two and carry one. The tens are three and five, and the carried one makes nine. So the "
    "number that was asked for is ninety-two, which is checked by taking one of them away again."
)


def test_repetition_is_distinguished_from_prose() -> None:
    assert is_repetition("buy gold now! " * 40)
    assert is_repetition("a" * 5000)
    assert not is_repetition(PROSE)
    assert not is_repetition("ha" * (LONG // 4))  # short text repeats itself


def test_near_duplicates_are_distinguished_from_other_text() -> None:
    other = PROSE.replace("sum", "difference").replace("twelve", "eleven")
    assert likeness(sketch(PROSE), sketch(other)) > 0.6
    assert likeness(sketch(PROSE), sketch(PROSE.upper())) == 1.0
    assert likeness(sketch(PROSE), sketch(" ".join(reversed(PROSE.split())))) < 0.2


def test_memory_of_texts_is_bounded() -> None:
    memory = SeenTexts()
    for n in range(MOST_COPIES + 50):
        assert not memory.is_copied("a", "q", [f"{n:0{LONG}d}"])
    assert not memory.is_copied("b", "q", [f"{0:0{LONG}d}"])  # forgotten
    assert memory.is_copied("b", "q", [f"{MOST_COPIES:0{LONG}d}"])
    assert not memory.is_copied("b", "another question", [f"{MOST_COPIES:0{LONG}d}"])
