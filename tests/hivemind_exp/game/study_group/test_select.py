"""What later stages show: equal for nodes that received the same outputs, and bounded whatever peers send."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_exp.game.study_group.prompts import PeerText
from hivemind_exp.game.study_group.shown_outputs import (
    LONGEST_TEXT,
    MOST_PEERS,
    MOST_TEXTS,
    SHOWN,
    NoPeers,
    Output,
    heard,
    select,
    student_number,
)

peers = st.sampled_from([f"12D3KooW{letter * 8}" for letter in "ABCDEFGHIJ"])
outputs = st.builds(
    Output,
    peer=peers,
    place=st.integers(0, 15),
    text=st.text(max_size=5),
    reward=st.sampled_from([0.0, 0.5, 2.0, 4.0]),
    outcome=st.sampled_from([0.0, 1.0]),
    own=st.just(False),
    sameness=st.sampled_from("abcd"),
)
OWN = Output("12D3KooWme", 0, "mine", 0.0, 0.0, own=True, sameness="z")
groups = st.lists(outputs, max_size=30, unique_by=lambda output: (output.peer, output.place))


@pytest.mark.slow
@given(groups, st.randoms(use_true_random=False))
def test_the_outputs_shown_do_not_depend_on_their_order(heard_: list[Output], chance: random.Random) -> None:
    shuffled = [*heard_, OWN]
    chance.shuffle(shuffled)
    assert select(shuffled, "q", answers=True) == select([OWN, *heard_], "q", answers=True)


@pytest.mark.slow
@given(groups)
def test_an_own_output_is_always_shown_and_the_total_is_limited(heard_: list[Output]) -> None:
    shown = select([*heard_, OWN], "q", answers=True)
    assert shown[0] == OWN
    assert len(shown) <= SHOWN
    assert len({student_number("q", output.peer, output.place) for output in shown}) == len(shown)
    assert len({(output.peer, output.sameness) for output in shown}) == len(shown)


@pytest.mark.slow
@given(groups)
def test_no_answer_is_shown_if_the_node_has_none_of_its_own(heard_: list[Output]) -> None:
    assert select(heard_, "q", answers=True) == []
    assert len(select(heard_, "q", answers=False)) == min(SHOWN, len({(o.peer, o.sameness) for o in heard_}))


@given(groups)
def test_every_peers_best_comes_before_any_second_best(heard_: list[Output]) -> None:
    shown = select([*heard_, OWN], "q", answers=False)[1:]
    best = {peer: max(o.reward for o in heard_ if o.peer == peer) for peer in {o.peer for o in heard_}}
    firsts = min(len(best), SHOWN - 1)
    assert len({output.peer for output in shown[:firsts]}) == firsts
    assert [output.reward for output in shown[:firsts]] == sorted(best.values(), reverse=True)[:firsts]


@pytest.mark.slow
@given(groups, groups)
def test_a_number_means_the_same_answer_on_nodes_that_received_different_outputs(
    mine: list[Output], theirs: list[Output]
) -> None:
    """Losses, delays and splits change who is shown, but not the meaning of a number."""
    ours = {student_number("q", o.peer, o.place): (o.peer, o.place) for o in select([*mine, OWN], "q", answers=True)}
    other = {student_number("q", o.peer, o.place): (o.peer, o.place) for o in select([*theirs, OWN], "q", answers=True)}
    everybody = {student_number("q", o.peer, o.place): set() for o in [*mine, *theirs, OWN]}
    for output in [*mine, *theirs, OWN]:
        everybody[student_number("q", output.peer, output.place)].add((output.peer, output.place))
    for number in ours.keys() & other.keys():
        assert ours[number] == other[number] or len(everybody[number]) > 1


def test_numbers_have_three_digits_and_rarely_collide() -> None:
    numbers = [student_number("q", f"peer {i}", place) for i in range(50) for place in range(8)]
    assert all(100 <= number <= 999 for number in numbers)
    assert len(set(numbers)) > 0.7 * len(numbers)


def test_a_peers_number_changes_between_questions() -> None:
    assert len({student_number(f"question {i}", "peer", 0) for i in range(100)}) > 80


@pytest.mark.slow
@given(
    st.dictionaries(
        st.integers(0, 40).map("peer {}".format),
        st.dictionaries(st.sampled_from(["q", "r"]), st.lists(st.text(max_size=3), max_size=12), max_size=2),
        max_size=40,
    )
)
def test_considered_outputs_are_bounded_and_match_the_question(said: dict[str, dict[str, list[str]]]) -> None:
    found = heard(said, "q", besides="peer 0")
    assert len(found) <= MOST_PEERS * MOST_TEXTS
    assert "peer 0" not in {each.peer for each in found}
    assert all(said[each.peer]["q"][each.place] == each.text for each in found)
    assert len({each.peer for each in found}) == min(
        MOST_PEERS, sum(bool(groups_.get("q")) for peer, groups_ in said.items() if peer != "peer 0")
    )


def test_overlong_texts_are_ignored() -> None:
    assert heard({"p": {"q": ["x" * (LONGEST_TEXT + 1), "y"]}}, "q", besides="") == [PeerText("p", 1, "y")]


def test_the_peers_considered_vary_by_question() -> None:
    questions = [f"question {i}" for i in range(40)]
    said = {f"peer {i:03}": {question: ["x"] for question in questions} for i in range(64)}
    chosen = [{each.peer for each in heard(said, question, besides="")} for question in questions]
    assert all(len(each) == MOST_PEERS for each in chosen)
    assert len(set().union(*chosen)) == 64


def test_without_peers_there_are_no_outputs() -> None:
    assert heard(NoPeers().outputs(0, "answer"), "q", besides="me") == []
