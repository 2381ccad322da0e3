"""Drawing peers' groups: which ones, from whom and how many, and what hostile peers achieve."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.game.prompt_style import PromptStyle
from hivemind_exp.peers.bundle import FULL, SharedGroup
from hivemind_exp.rollouts.types import encode_completion
from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.base import Question, Score
from hivemind_exp.tasks.verifiers.reader import read
from tests.support.peer_draws import draw_alone, honest, peers_of
from tests.support.peers import ME, TOKENIZER, letter, make_sampler, shared_group
from tests.support.spelling_task import Spelling


def test_a_group_is_drawn_whole_with_recomputed_rewards_and_this_nodes_tokens(tmp_path: Path) -> None:
    source = make_sampler(tmp_path)
    honest(source, 1)
    (group,) = source.draw(seed=0)
    assert [score.outcome for score in group.scores] == [1.0, 1.0, 0.0, 0.0]
    assert {(row.kind, row.source, row.lag, row.model) for row in group.rollouts} == {
        (Kind.PEER, "peer 0", None, "tiny")
    }
    assert all(TOKENIZER.decode(row.ids, skip_special_tokens=True) == row.text for row in group.rollouts)
    assert all(row.ids[-1] == TOKENIZER.eos_token_id for row in group.rollouts)
    assert group.prompt.question == Spelling().questions("train", 0, 1)[0]
    assert group.prompt.ids
    assert source.draw(seed=1) == []  # only once


class AnyFormat(Spelling):
    """Reads answers as real tasks do."""

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
        right = [str(question.entry["answer"]) for question in questions]
        found = [read(text, answer) for text, answer in zip(completions, right, strict=True)]
        return [
            Score(float(reading is not None and reading.answer == answer), True, "compared")
            for reading, answer in zip(found, right, strict=True)
        ]


def test_a_peers_text_is_put_into_this_nodes_style(tmp_path: Path) -> None:
    for style, texts in (
        (PromptStyle("plain"), [f"{right_answer()}", "aaa", "aaa", "bbb"]),
        (PromptStyle("boxed"), [f"\\boxed{{{right_answer()}}}", *["\\boxed{aaa}"] * 2, "\\boxed{bbb}"]),
    ):
        source = make_sampler(tmp_path, tasks=AnyFormat(), style=style)
        sent = (f"<answer>{right_answer()}</answer>", "<answer>aaa</answer>", "aaa", "\\boxed{bbb}")
        (group,) = draw_alone(source, shared_group(0, texts=sent))
        assert [row.text for row in group.rollouts] == texts
        assert [score.outcome for score in group.scores] == [1.0, 0.0, 0.0, 0.0]
        assert all(row.ids == encode_completion(TOKENIZER, row.text, False) for row in group.rollouts)


def right_answer() -> str:
    return str(Spelling().questions("train", 0, 1)[0].entry["answer"])


@pytest.mark.parametrize(
    ("rules", "text", "why"),
    [
        ({}, "<think>a</think><answer>{}</answer>", "prompt style that cannot be converted to this node's"),
        ({"with_logps": True}, "<answer>{}</answer>", "log-probabilities of another prompt style"),
    ],
)
def test_a_group_that_would_lose_something_is_left_out_and_counted(
    tmp_path: Path, rules: dict[str, Any], text: str, why: str
) -> None:
    source = make_sampler(tmp_path, tasks=AnyFormat(), style=PromptStyle("plain"), **rules)
    texts = (text.format(right_answer()), "aaa", "aaa", "aaa")
    ids = tuple(encode_completion(TOKENIZER, each, False) for each in texts)
    logps = tuple((-1.0,) * len(row) for row in ids)
    group = shared_group(0, texts=texts, **({"ids": ids, "logps": logps} if rules else {}))
    assert draw_alone(source, group) == []
    assert source.refusals[why] == 1


def test_a_truncated_text_does_not_end_the_turn(tmp_path: Path) -> None:
    source = make_sampler(tmp_path)
    (group,) = draw_alone(source, shared_group(0, cut=(False, True, False, True)))
    assert [row.ids[-1] == TOKENIZER.eos_token_id for row in group.rollouts] == [True, False, True, False]


@pytest.mark.parametrize(("local", "external", "quota"), [(8, 8, 2), (4, 4, 1), (2, 6, 1), (24, 8, 4)])
def test_no_peer_fills_more_than_an_eighth_of_a_batch(tmp_path: Path, local: int, external: int, quota: int) -> None:
    source = make_sampler(tmp_path, local=local, external=external)
    honest(source, 3, 10)
    assert max(peers_of(source.draw(seed=0)).values()) == quota
    honest(source, 20, 10, round_=1)
    drawn = source.draw(seed=0)
    assert len(drawn) == external
    assert max(peers_of(drawn).values()) <= quota


@pytest.mark.slow
def test_an_open_swarm_has_one_cap_for_all_peers_together(tmp_path: Path) -> None:
    source = make_sampler(tmp_path, open=True)
    honest(source, 1000)
    assert len(source.draw(seed=0)) == 4
    assert len(make_sampler(tmp_path / "small", open=True, local=1, external=1).draw(seed=0)) == 0


@pytest.mark.slow
def test_a_thousand_fresh_identities_do_not_push_known_peers_out(tmp_path: Path) -> None:
    source = make_sampler(tmp_path)
    for round_ in range(12):
        honest(source, 4, 2, round_=round_, start="known")
        source.draw(seed=round_)
    honest(source, 1000, 1, round_=20, start="fresh")
    honest(source, 4, 2, round_=20, start="known")
    drawn = peers_of(source.draw(seed=5))
    assert sum(count for peer, count in drawn.items() if peer.startswith("known")) >= 6


def test_groups_that_are_all_wrong_are_dropped_and_others_drawn_instead(tmp_path: Path) -> None:
    source = make_sampler(tmp_path, local=2, external=2)
    source.take_in(
        [letter(f"wrong {n}", shared_group(n, right=0, outcomes=(FULL, 0, 0, 0))) for n in range(6)]
        + [letter("telling", shared_group(8)), letter("always right", shared_group(9, right=4))]
    )
    assert set(peers_of(source.draw(seed=0))) == {"telling", "always right"}
    assert source.refusals["all completions wrong"] > 0


def test_groups_that_their_peers_call_all_wrong_take_no_tries_from_others(tmp_path: Path) -> None:
    for seed in range(5):
        source = make_sampler(tmp_path / str(seed), local=2, external=2)
        wrong = [letter(f"wrong {n}", *(shared_group(i, right=0) for i in range(8))) for n in range(8)]
        source.take_in([*wrong, letter("telling", shared_group(9))])
        assert source.refusals["all completions wrong"] == 64
        assert set(peers_of(source.draw(seed=seed))) == {"telling"}
        assert source.refusals["all completions wrong"] == 64, "they are counted once, and not verified"
        assert source.book.standing("wrong 0").groups == 0


def test_groups_with_equal_rewards_are_dropped_if_the_loss_compares_rewards(tmp_path: Path) -> None:
    source = make_sampler(tmp_path, local=2, external=2, needs_spread=True)
    source.take_in([letter("always right", shared_group(0, right=4)), letter("telling", shared_group(1))])
    assert set(peers_of(source.draw(seed=0))) == {"telling"}
    assert source.refusals["all rewards equal"] == 1


@pytest.mark.slow
def test_equal_peers_are_drawn_evenly_and_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    drawn: Counter[str] = Counter()
    for seed in range(60):
        source = make_sampler(tmp_path / str(seed), local=1, external=2)
        honest(source, 6, 3)
        drawn += peers_of(source.draw(seed=seed))
    assert sum(drawn.values()) == 120
    assert min(drawn.values()) > 8
    twice = [make_sampler(tmp_path / f"again {n}", local=1, external=2) for n in range(2)]
    for source in twice:
        honest(source, 6, 3)
    assert twice[0].draw(seed=7) == twice[1].draw(seed=7)


@pytest.mark.slow
def test_a_peer_that_sends_more_groups_is_not_drawn_more_often(tmp_path: Path) -> None:
    drawn: Counter[str] = Counter()
    for seed in range(60):
        source = make_sampler(tmp_path / str(seed), local=1, external=1)
        honest(source, 3, 1)
        honest(source, 1, 40, start="flood")
        drawn += peers_of(source.draw(seed=seed))
    assert drawn["flood 0"] < 30


def test_nothing_is_drawn_from_a_quarantined_peer(tmp_path: Path) -> None:
    source = make_sampler(tmp_path, local=4, external=4)
    honest(source, 3, 2)
    everyone = {offer.peer for offers in source.pool.offers("answer").values() for offer in offers}
    barred = min(everyone)
    source.barred = frozenset({barred})
    assert set(peers_of(source.draw(seed=0))) == everyone - {barred}
    source.barred = frozenset()
    assert barred in peers_of(source.draw(seed=1))


def test_a_node_does_not_learn_from_itself(tmp_path: Path) -> None:
    source = make_sampler(tmp_path)
    source.take_in([letter(ME, shared_group(0))])
    assert source.draw(seed=0) == []


def test_a_held_out_question_is_never_learned_from_a_peer(tmp_path: Path) -> None:
    class HoldingOut(Spelling):
        def questions(self, split: Any, round: int, count: int) -> list[Question]:
            return [question for question in super().questions(split, round, count + 1) if question.index != 0][:count]

    source = make_sampler(tmp_path, tasks=HoldingOut())
    source.take_in([letter("peer", shared_group(0), replace(shared_group(1), question="00" * 32))])
    assert source.draw(seed=0) == []
    assert source.refusals["question is held out on this node"] == 1
    assert source.book.record("peer").refused == 0


def test_f_tis_accepts_only_groups_whose_tokens_match_their_text(tmp_path: Path) -> None:
    def with_tokens(group: SharedGroup, shift: int = 0) -> SharedGroup:
        ids = tuple((*TOKENIZER.encode(text), TOKENIZER.eos_token_id) for text in group.texts)
        ids = tuple(tuple(token + shift for token in row) for row in ids)
        return replace(group, ids=ids, logps=tuple((-0.5,) * len(row) for row in ids))

    source = make_sampler(tmp_path, with_logps=True)
    source.take_in(
        [
            letter("with", with_tokens(shared_group(0))),
            letter("without", shared_group(1)),
            letter("shifted", with_tokens(shared_group(2), 1)),
            letter("beyond", with_tokens(shared_group(3), 100_000)),
        ]
    )
    (group,) = source.draw(seed=0)
    assert group.rollouts[0].source == "with"
    assert all(len(row.behaviour_logps or ()) == len(row.ids) for row in group.rollouts)
    # The other losses use only the text.
    plain = make_sampler(tmp_path / "plain")
    (group,) = draw_alone(plain, with_tokens(shared_group(0)))
    assert group.rollouts[0].behaviour_logps is None


def test_groups_whose_questions_are_slow_to_make_wait_for_another_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hivemind_exp.peers.sampler.MAKING_S", 0.05)

    class Slow(Spelling):
        def questions(self, split: Any, round: int, count: int) -> list[Question]:
            time.sleep(0.03)
            return super().questions(split, round, count)

    source = make_sampler(tmp_path, tasks=Slow())
    for round_ in range(8):
        source.take_in([letter(f"peer {round_}", shared_group(0, round_=round_), round_=round_)])
    drawn = [len(source.draw(seed=seed)) for seed in range(6)]
    assert 0 < drawn[0] < 8
    assert sum(drawn) == 8


class Leveled(Spelling):
    """Every question exists at three levels; the words of each are other rounds' words. Its round 9 is held out."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[str, int, int, int | None]] = []

    def question(self, task: str, round: int, index: int, level: int | None) -> Question | None:
        self.made.append((task, round, index, level))
        found = self.questions("train", 100 * (3 if level is None else level) + round, index + 1)[index]
        return None if round == 9 else replace(found, round=round, level=level)


def at_level(index: int, level: int | None, *, task: str = "spelling", round_: int = 0) -> SharedGroup:
    shown = shared_group(index, round_=100 * (3 if level is None else level) + round_)
    return replace(shown, level=level, task=task)


def test_questions_are_generated_at_the_level_that_a_group_names(tmp_path: Path) -> None:
    tasks = Leveled()
    source = make_sampler(tmp_path, tasks=tasks, levels={"spelling": 3})
    source.take_in([letter(f"peer {n}", at_level(n, level)) for n, level in enumerate((0, 2, None))])
    assert sorted(str(group.prompt.question.level) for group in source.draw(seed=0)) == ["0", "2", "None"]
    assert sorted(tasks.made, key=str) == [
        ("spelling", 0, 0, 0), ("spelling", 0, 1, 2), ("spelling", 0, 2, None)
    ]  # fmt: skip
    source.take_in([letter("peer 7", replace(at_level(1, 2), texts=("<answer>x</answer>",) * 4))])
    source.draw(seed=0)
    assert len(tasks.made) == 3, "only once"


@pytest.mark.parametrize(
    ("levels", "group", "why", "fault"),
    [
        ({"spelling": 3}, at_level(0, 3), "level of difficulty that the charter does not list", True),
        ({"spelling": 0}, at_level(0, 0), "level of difficulty that the charter does not list", True),
        ({"other": 3}, at_level(0, 0), "level of difficulty that the charter does not list", True),
        ({"other": 3}, at_level(0, None), "task that the charter does not list", True),
        (None, at_level(0, 0), "level of difficulty that the charter does not list", True),
        ({"spelling": 3}, replace(at_level(0, 0), level=1), "question differs from this node's", False),
        ({"spelling": 3}, replace(at_level(0, 0), index=2**30), "question index out of range", True),
    ],
)
def test_a_level_or_a_task_that_the_charter_does_not_list_is_refused(
    tmp_path: Path, levels: dict[str, int] | None, group: SharedGroup, why: str, fault: bool
) -> None:
    source = make_sampler(tmp_path, tasks=Leveled(), levels=levels)
    assert draw_alone(source, group) == []
    assert source.refusals == {why: 1}
    assert sum(record.refused for record in source.book.peers.values()) == fault
    assert sum(record.skewed for record in source.book.peers.values()) == (not fault)


def test_a_question_that_is_held_out_here_is_left_out_at_every_level(tmp_path: Path) -> None:
    source = make_sampler(tmp_path, tasks=Leveled(), levels={"spelling": 3})
    source.take_in([letter("peer", at_level(0, 1, round_=9), round_=9)])
    assert source.draw(seed=0) == []
    assert source.refusals == {"question is held out on this node": 1}


def test_groups_of_levels_that_this_node_has_left_wait_or_are_left_out(tmp_path: Path) -> None:
    source = make_sampler(tmp_path, tasks=Leveled(), levels={"spelling": 3})
    source.take_in([letter(f"peer {n}", at_level(n, level)) for n, level in enumerate((0, 1, 2, None))])
    drawn = source.draw(seed=0, levels={"spelling": 1})
    assert sorted(str(group.prompt.question.level) for group in drawn) == ["1", "2", "None"]
    (later,) = source.draw(seed=0, levels={"spelling": 0})
    assert later.prompt.question.level == 0
