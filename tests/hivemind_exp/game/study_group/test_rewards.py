"""The rewards of the study group's stages, term by term, and that nothing else is rewarded."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_exp.game.study_group.prompts import NOBODY, TAGS
from hivemind_exp.game.study_group.rewards import (
    choice_in,
    majority_of,
    score_answer,
    score_critique,
    score_resolve,
    similarity,
)
from hivemind_exp.tasks.base import Question, RewardTerm, Score
from hivemind_exp.tasks.verifiers.answer_tags import TAGS as ANSWER_TAGS
from hivemind_exp.tasks.verifiers.answer_tags import content, in_order, is_exactly
from hivemind_exp.tasks.verifiers.reader import read

QUESTION = Question("sums", "train", 0, 0, "What is 9 + 9 in all?", {"answer": "18"}, "d", "k")
WORDS = Question("words", "train", 0, 0, "Spell cat backwards.", {"answer": "tac"}, "e", "l")
RIGHT, WRONG = Score(1.0, True, "right"), Score(0.0, True, "wrong")
STUDENTS = {417: 1.0, 233: 0.0, 871: 0.5}


@dataclass(frozen=True)
class Best:
    """A stage's best completion."""

    text: str
    reward: float
    score: Callable[[str, Score], Score]
    """Scores a completion of the stage, given the task verifier's score."""


GOOD = {
    "answer": Best(
        "<think>9 and 9\nare 18</think>\n<answer>18</answer>",
        4.0,
        lambda text, verified: score_answer(QUESTION, text, verified),
    ),
    "critique": Best(
        "<compare>\nthey\ndiffer\n</compare>\n<explain>417 adds</explain>\n<identify>417</identify>",
        5.75,
        lambda text, _: score_critique(text, STUDENTS),
    ),
    "resolve": Best(
        "<summarize_feedback>all for 417</summarize_feedback>\n<majority>417</majority>\n"
        "<question>What is 9 + 9 in all?</question>\n<think>add\nthem</think>\n<answer>18</answer>",
        9.25,
        lambda text, verified: score_resolve(QUESTION, text, verified, STUDENTS, (417,)),
    ),
}
"""Every stage with tags of its own."""
hostile = st.one_of(
    st.text(max_size=300),
    st.lists(
        st.sampled_from(
            [f"<{close}{name}>" for names in TAGS.values() for name in names for close in ("", "/")]
            + ["417", "None", "\n", "x", "\u202e", "<", "</", "9" * 40]
        ),
        max_size=30,
    ).map("".join),
)


def score(stage: str, text: str, verified: Score = RIGHT) -> Score:
    return GOOD[stage].score(text, verified)


def resolve(text: str, majority: tuple[int | str, ...]) -> Score:
    return score_resolve(QUESTION, text, RIGHT, STUDENTS, majority)


def terms(scored: Score) -> dict[str, float]:
    return {term.name: term.value for term in scored.terms}


def test_every_stage_with_tags_has_a_best_completion_here() -> None:
    assert set(GOOD) == set(TAGS), "add the new stage to GOOD, above"


@pytest.mark.parametrize("stage", GOOD)
def test_the_best_completion_gets_the_maximum_of_every_term(stage: str) -> None:
    best, most = score(stage, GOOD[stage].text), GOOD[stage].reward
    assert [term.value for term in best.terms] == [term.maximum for term in best.terms]
    assert best.reward == pytest.approx(most)
    assert sum(term.maximum for term in best.terms) == pytest.approx(most)
    assert (best.outcome, best.strict) == (1.0, True)


@given(st.sampled_from(list(GOOD)), hostile, st.sampled_from([0.0, 0.4, 1.0]))
def test_every_term_stays_between_zero_and_its_maximum(stage: str, text: str, outcome: float) -> None:
    scored = score(stage, text, Score(outcome, False, "?"))
    assert all(0 <= term.value <= term.maximum for term in scored.terms)
    assert 0 <= scored.outcome <= 1
    assert len({term.name for term in scored.terms}) == len(scored.terms)


@given(hostile)
def test_the_strict_format_implies_the_soft_format(text: str) -> None:
    for names in TAGS.values():
        if is_exactly(text, names):
            assert in_order(text, names)
            assert all(content(text, name) is not None for name in names)


@pytest.mark.parametrize("stage", GOOD)
def test_each_format_flaw_lowers_the_reward(stage: str) -> None:
    good = score(stage, GOOD[stage].text)
    chatty = score(stage, f"Well. {GOOD[stage].text} Done.")
    assert terms(chatty)["strict format"] == 0
    assert terms(chatty)["soft format"] == 0.5
    assert terms(good)["tags"] - terms(chatty)["tags"] == pytest.approx(0.005)
    last = f"</{TAGS[stage][-1]}>"
    open_end = score(stage, GOOD[stage].text.removesuffix(last))
    assert terms(open_end)["soft format"] == 0
    assert terms(good)["tags"] - terms(open_end)["tags"] == pytest.approx(0.125)
    doubled = score(stage, GOOD[stage].text + last)
    assert terms(good)["tags"] - terms(doubled)["tags"] == pytest.approx(0.125)


def test_trailing_text_costs_at_most_the_tags_term() -> None:
    assert terms(score("answer", GOOD["answer"].text + " x" * 5000))["tags"] == 0


def test_the_terms_of_a_task_of_ones_own_are_added() -> None:
    own = (RewardTerm("correct", 0.0, None, ""), RewardTerm("short", 0.1, None, ""))
    plain, added = (score_answer(QUESTION, "17", each) for each in (WRONG, replace(WRONG, terms=own)))
    assert terms(added) == terms(plain) | {"short": 0.1}


def test_an_integer_is_expected_only_if_the_right_answer_is_one() -> None:
    assert terms(score_answer(QUESTION, "<answer>17</answer>", WRONG))["integer"] == 0.5
    assert terms(score_answer(QUESTION, "<answer>about 18</answer>", WRONG))["integer"] == 0
    assert "integer" not in terms(score_answer(WORDS, "<answer>17</answer>", WRONG))


@pytest.mark.parametrize(
    ("text", "strict"), [("18", True), ("The answer is 18.", False), ("<answer>18</answer>", False)]
)
def test_a_node_that_asks_for_plain_answers_rewards_plain_answers(text: str, strict: bool) -> None:
    reading = read(text, "18")
    assert reading is not None
    score = score_answer(QUESTION, text, Score(1.0, reading.strict, "correct"), "plain")
    assert terms(score) == {"correct": 2.0, "integer": 0.5, "strict format": 0.5 * strict}


@pytest.mark.parametrize(
    ("held", "choice"),
    [
        ("417", 417), ("Student 417", 417), ("student #417.", 417), (" 417\n", 417), ("4", 4),
        ("None", NOBODY), ("NONE.", NOBODY),
        ("417 and 233", None), ("the best", None), ("", None), ("4" * 31, None), ("４１７", None), ("-417", None),
    ],
)  # fmt: skip
def test_a_choice_is_a_whole_number_or_none(held: str, choice: int | str | None) -> None:
    assert choice_in(f"<identify>{held}</identify>", "identify") == choice


@pytest.mark.parametrize(
    ("choice", "named", "right"),
    [("417", 2.0, 2.0), ("233", 2.0, 0.0), ("871", 2.0, 1.0), ("None", 2.0, 0.0), ("999", 0.0, 0.0), ("4", 0.0, 0.0)],
)
def test_a_critique_is_rewarded_for_an_existing_choice_and_for_a_right_one(
    choice: str, named: float, right: float
) -> None:
    scored = score_critique(GOOD["critique"].text.replace(">417<", f">{choice}<"), STUDENTS)
    assert (terms(scored)["names a student"], terms(scored)["right choice"]) == (named, right)
    assert scored.outcome == right / 2


def test_resolve_without_critics_has_no_agreement_term() -> None:
    alone = resolve(GOOD["resolve"].text, majority=())
    assert "agrees" not in terms(alone)
    assert alone.reward == pytest.approx(7.25)


def test_agreeing_with_a_wrong_majority_differs_from_being_right() -> None:
    follower = resolve(GOOD["resolve"].text.replace(">417<", ">233<"), majority=(233,))
    dissenter = resolve(GOOD["resolve"].text, majority=(233,))
    assert (terms(follower)["agrees"], terms(follower)["right majority"]) == (2.0, 0.0)
    assert (terms(dissenter)["agrees"], terms(dissenter)["right majority"]) == (0.0, 2.0)


def test_a_majority_counts_only_existing_choices_and_keeps_ties() -> None:
    assert majority_of([417, 417, 233, None, 999, 999, 999], STUDENTS) == (417,)
    assert majority_of([417, 233, NOBODY], STUDENTS) == (233, 417, NOBODY)
    assert majority_of([None, 5], STUDENTS) == ()


@given(st.text(max_size=200), st.text(max_size=200))
def test_similarity_is_symmetric_and_between_zero_and_one(one: str, other: str) -> None:
    assert 0 <= similarity(one, other) <= 1
    assert similarity(one, other) == similarity(other, one)
    if one.split():
        assert similarity(one, one) == 1


def test_similarity_looks_at_words_and_their_order() -> None:
    question = "If Tom has 3 apples and eats 1, how many are left?"
    assert similarity(f"  {question.upper()}\n", question) == 1
    assert similarity(question.replace("3", "5"), question) > 0.7
    assert similarity("apples Tom left many how", question) < 0.1
    assert similarity("", question) == similarity("", "") == 0


def test_rewards_of_hostile_text_take_linear_time() -> None:
    """Twice the text takes about twice as long, whatever it contains."""
    for bad in ("<answer>", "<think>", "<identify>1", "<question> a b ", "</answer><answer>", "a b "):
        took = []
        for repeats in (20_000, 40_000):
            begun = time.process_time()
            for stage in GOOD:
                score(stage, bad * repeats)
            took.append(time.process_time() - begun)
        assert all(later < 4 * earlier + 0.5 for earlier, later in pairwise(took))  # quadratic: 20 s and 80 s


def test_the_answer_is_extracted_as_in_sampling() -> None:
    assert content("<answer>1</answer> <answer> 2 </answer>", "answer") == "2"
    assert set(ANSWER_TAGS) == {"<answer>", "</answer>", "<think>", "</think>"}
