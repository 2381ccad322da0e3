"""How work is divided among processes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hivemind_exp.parallel.shares import deal, even_range


@given(st.integers(0, 100), st.integers(1, 9))
def test_ranges_cover_everything_once_and_evenly(count: int, processes: int) -> None:
    ranges = [even_range(count, place, processes) for place in range(processes)]
    assert [number for each in ranges for number in each] == list(range(count))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(1, 7))
def test_each_item_is_dealt_once_and_all_get_about_as_much(sizes: list[int], processes: int) -> None:
    shares = [deal(sizes, int, place, processes) for place in range(processes)]
    assert sorted(size for share in shares for size in share) == sorted(sizes)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    # In a pair of turns, nobody is ahead by more than the spread of one turn.
    assert max(map(sum, shares)) - min(map(sum, shares)) <= 2 * max(sizes, default=0)


def test_a_deal_changes_direction_with_each_turn() -> None:
    assert [deal([8, 7, 6, 5, 4, 3], int, place, 2) for place in (0, 1)] == [[8, 5, 4], [7, 6, 3]]
