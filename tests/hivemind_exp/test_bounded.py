"""Dictionaries of bounded size that drop the entries written longest ago."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_exp.bounded import BoundedDict


def test_the_oldest_entry_is_dropped_first() -> None:
    seen: BoundedDict[str, int] = BoundedDict(2)
    seen["a"], seen["b"], seen["c"] = 1, 2, 3
    assert dict(seen) == {"b": 2, "c": 3}
    assert "a" not in seen
    assert seen.get("a") is None
    with pytest.raises(KeyError):
        seen["a"]


def test_writing_makes_an_entry_newest_and_reading_does_not() -> None:
    seen: BoundedDict[str, int] = BoundedDict(2)
    seen["a"], seen["b"] = 1, 2
    seen["a"] = 3
    seen["c"] = 4
    assert list(seen) == ["a", "c"]
    assert seen["a"] == 3
    assert "a" in seen
    seen["d"] = 5
    assert list(seen) == ["c", "d"]
    assert seen.setdefault("c", 9) == 4
    seen["e"] = 6
    assert list(seen) == ["c", "e"]


def test_setdefault_writes_a_missing_entry() -> None:
    lists: BoundedDict[str, list[int]] = BoundedDict(1)
    lists.setdefault("a", []).append(1)
    lists.setdefault("a", []).append(2)
    assert lists["a"] == [1, 2]
    assert lists.setdefault("b", [3]) == [3]
    assert list(lists) == ["b"]


def test_the_bound_can_apply_to_the_size_of_the_values() -> None:
    texts: BoundedDict[str, bytes] = BoundedDict(10, weigh=len)
    texts["a"], texts["b"] = b"1234", b"123456"
    assert (list(texts), texts.weight) == (["a", "b"], 10)
    texts["a"] = b"1"
    assert (list(texts), texts.weight) == (["b", "a"], 7)
    texts["c"] = b"12345"
    assert (list(texts), texts.weight) == (["a", "c"], 6)
    del texts["a"]
    assert texts.weight == 5
    texts["too large"] = bytes(11)
    assert (len(texts), texts.weight) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5))), st.integers(1, 12))
def test_the_bound_holds_and_the_weight_is_right(writes: list[tuple[int, int]], most: int) -> None:
    weighed: BoundedDict[int, int] = BoundedDict(most, weigh=int)
    counted: BoundedDict[int, int] = BoundedDict(most)
    for key, value in writes:
        weighed[key] = value
        counted[key] = value
        assert weighed.weight == sum(weighed.values()) <= most
        assert counted.weight == len(counted) <= most
        assert counted[key] == value
    newest = list(dict.fromkeys(key for key, _ in reversed(writes)))[:most]
    assert list(counted) == newest[::-1]
