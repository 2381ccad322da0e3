"""Peers' reputation: lies and invalid data cost weight, and strangers share one weight."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from hivemind_exp.peers.records import (
    FILE_NAME,
    FLOOR,
    KNOWN_AFTER,
    MOST_PEERS,
    PeerBook,
    Standing,
    read_peers,
    refused,
    verified,
    weight,
    weights,
)


def after(groups: int, claimed: float, recomputed: float) -> Standing:
    standing = Standing()
    for _ in range(groups):
        standing = verified(standing, claimed=claimed, recomputed=recomputed)
    return standing


def test_honest_peers_have_weight_one_and_liars_the_floor() -> None:
    assert weight(after(20, 0.5, 0.5)) == 1.0
    assert weight(after(20, 0.52, 0.5)) == 1.0
    assert weight(after(20, 1.0, 0.25)) == FLOOR
    assert weight(after(20, 0.0, 0.75)) == FLOOR


def test_a_liar_that_turns_honest_recovers_slowly() -> None:
    standing = after(20, 1.0, 0.0)
    steps = [weight(standing)]
    for _ in range(40):
        standing = verified(standing, claimed=0.5, recomputed=0.5)
        steps.append(weight(standing))
    assert steps[5] == FLOOR < steps[20] < steps[40] == max(steps)


def test_invalid_data_costs_weight_and_is_forgotten() -> None:
    standing = after(20, 0.5, 0.5)
    for _ in range(30):
        standing = refused(standing)
    assert weight(standing) == FLOOR
    for _ in range(30):
        standing = verified(standing, claimed=0.5, recomputed=0.5)
    assert weight(standing) > 0.9


def test_a_thousand_strangers_share_the_weight_of_one() -> None:
    honest = {f"known {n}": after(KNOWN_AFTER, 0.5, 0.5) for n in range(4)}
    for crowd in (1, 1000):
        found = weights({**honest, **{f"stranger {n}": Standing() for n in range(crowd)}})
        assert abs(sum(found[f"stranger {n}"] for n in range(crowd)) - FLOOR) < 1e-9
        assert all(found[peer] == 1.0 for peer in honest)


def test_strangers_alone_have_equal_weight() -> None:
    assert set(weights({"a": Standing(), "b": Standing()}).values()) == {1.0}
    assert weights({}) == {}
    assert weights({"a": after(KNOWN_AFTER, 0.5, 0.5)}) == {"a": 1.0}


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 1), st.floats(0, 1))))
def test_weights_stay_in_bounds_for_any_history(history: list[tuple[bool, float, float]]) -> None:
    standing = Standing()
    for parsed, claimed, recomputed in history:
        standing = verified(standing, claimed=claimed, recomputed=recomputed) if parsed else refused(standing)
        assert FLOOR <= weight(standing) <= 1.0


def test_the_peer_book_survives_a_restart_and_damage(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    book = PeerBook(path)
    book.was_verified("a", claimed=1.0, recomputed=0.5, completions=8, correct=4)
    book.was_refused("b")
    book.record("a").used += 1
    book.save(now=True)
    again = PeerBook(path)
    assert again.standing("a") == book.standing("a")
    assert again.record("b").refused == 1
    assert (again.record("a").correct, again.record("a").used) == (4, 1)
    for damage in (b"", b"{", b"[]", b'{"peers": 1}', b'{"peers": {"a": 1}}', b"\xff"):
        path.write_bytes(damage)
        assert read_peers(path) == {}
        assert PeerBook(path).peers == {}


def test_the_peer_book_drops_the_peers_that_contributed_least(tmp_path: Path) -> None:
    book = PeerBook(tmp_path / FILE_NAME)
    book.record("giver").used = 3
    for n in range(2 * MOST_PEERS):
        book.record(f"stranger {n}")
    assert len(book.peers) == MOST_PEERS
    assert "giver" in book.peers


def test_a_failed_write_loses_only_the_records(tmp_path: Path) -> None:
    book = PeerBook(tmp_path / "missing" / FILE_NAME)
    book.record("a")
    book.save(now=True)
    assert book.record("a").offered == 0
    assert not (tmp_path / "missing").exists()


def test_the_first_peer_is_written_at_once_and_others_later(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    book = PeerBook(path)
    book.save()
    assert not path.exists()
    book.record("one")
    book.save()
    book.record("two")
    book.save()
    assert list(read_peers(path)) == ["one"]
