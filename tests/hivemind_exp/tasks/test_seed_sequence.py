"""Seeds derived from positions."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from hivemind_exp.tasks.seed_sequence import Sequence64, canonical, thresholds

FIELD = st.one_of(st.binary(max_size=6), st.text(max_size=6), st.integers())


@given(st.lists(FIELD, max_size=4), st.lists(FIELD, max_size=4))
def test_field_encodings_are_unambiguous(left: list[bytes | str | int], right: list[bytes | str | int]) -> None:
    assert (canonical(*left) == canonical(*right)) == (left == right)


def test_the_numbers_never_change() -> None:
    """A change in these numbers would break every swarm, because its nodes would make different questions."""
    assert Sequence64(b"charter", "train").at("item", "bf", 3, 4) == 0x964CF40A60749677
    assert Sequence64(b"charter", "heldout", b"secret").at("item", "bf", 3, 4) == 0x8D314F750B1E93A7
    assert Sequence64(b"charter", "train").permutation("gsm8k", 0, 6) == (0, 5, 4, 1, 2, 3)


def test_every_field_changes_the_number() -> None:
    base = Sequence64(b"charter", "train").at("item", "bf", 3, 4)
    others = {
        Sequence64(b"charter2", "train").at("item", "bf", 3, 4),
        Sequence64(b"charter", "heldout").at("item", "bf", 3, 4),
        Sequence64(b"charter", "train", b"secret").at("item", "bf", 3, 4),
        Sequence64(b"charter", "train").at("task", "bf", 3, 4),
        Sequence64(b"charter", "train").at("item", "ab", 3, 4),
        Sequence64(b"charter", "train").at("item", "bf", 34, 4),
        Sequence64(b"charter", "train").at("item", "bf", 3, 5),
        Sequence64(b"charter", "train").at("item", "bf", -3, 4),
    }
    assert len(others) == 8
    assert base not in others


def test_each_epoch_has_a_different_permutation() -> None:
    sequence = Sequence64(b"charter", "train")
    first, second = sequence.permutation("jsonl", 0, 100), sequence.permutation("jsonl", 1, 100)
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second


def test_thresholds_split_the_numbers_by_weight() -> None:
    assert thresholds([1.0, 1.0]) == [2**63, 2**64]
    assert thresholds([0.1] * 9)[-1] == 2**64
    bounds, sequence = thresholds([3.0, 1.0]), Sequence64(b"", "train")
    chosen = Counter(sequence.at("task", 0, index) < bounds[0] for index in range(4000))
    assert 2850 < chosen[True] < 3150
