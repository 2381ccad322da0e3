"""Drawing peers' groups: which ones, from whom and how many, and what hostile peers achieve."""

from __future__ import annotations

import random
import string
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import TaskConfig
from hivemind_exp.game.prompt_style import PromptStyle
from hivemind_exp.peers.bundle import FULL, BundlePool, SharedGroup
from hivemind_exp.peers.records import FLOOR, weight
from hivemind_exp.peers.source import PeerSource
from hivemind_exp.rollouts.types import Group, Kind, encode_completion
from hivemind_exp.tasks.base import Question, Score, Tasks
from hivemind_exp.tasks.mixture import Mixture
from hivemind_exp.tasks.verifiers.reader import read
from tests.support.peers import ME, SWARM, TOKENIZER, Letter, letter, make_source, shared_group
from tests.support.spelling_task import Spelling


class Lenient(Spelling):
    """Looks only at the answer, as real tasks do. Any text may surround it."""

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
        return [
            Score(float(f"<answer>{question.entry['answer']}</answer>" in text), True, "compared")
            for question, text in zip(questions, completions, strict=True)
        ]


def peers_of(groups: Sequence[Group]) -> Counter[str]:
    return Counter(group.rollouts[0].source for group in groups)


def honest(source: PeerSource, peers: int, groups: int = 1, *, round_: int = 0, start: str = "peer") -> None:
    source.take_in(
        [
            letter(f"{start} {n}", *(shared_group(i, round_=round_) for i in range(groups)), round_=round_)
            for n in range(peers)
        ]
    )


def draw_alone(source: PeerSource, group: SharedGroup, **kwargs: Any) -> list[Group]:
    source.take_in([letter("hostile", group, **kwargs)])
    return source.draw(seed=0)


def test_a_group_is_drawn_whole_with_recomputed_rewards_and_this_nodes_tokens(tmp_path: Path) -> None:
    source = make_source(tmp_path)
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
        source = make_source(tmp_path, tasks=AnyFormat(), style=style)
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
    source = make_source(tmp_path, tasks=AnyFormat(), style=PromptStyle("plain"), **rules)
    texts = (text.format(right_answer()), "aaa", "aaa", "aaa")
    ids = tuple(encode_completion(TOKENIZER, each, False) for each in texts)
    logps = tuple((-1.0,) * len(row) for row in ids)
    group = shared_group(0, texts=texts, **({"ids": ids, "logps": logps} if rules else {}))
    assert draw_alone(source, group) == []
    assert source.refusals[why] == 1


def test_a_truncated_text_does_not_end_the_turn(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    (group,) = draw_alone(source, shared_group(0, cut=(False, True, False, True)))
    assert [row.ids[-1] == TOKENIZER.eos_token_id for row in group.rollouts] == [True, False, True, False]


@pytest.mark.parametrize(("local", "external", "quota"), [(8, 8, 2), (4, 4, 1), (2, 6, 1), (24, 8, 4)])
def test_no_peer_fills_more_than_an_eighth_of_a_batch(tmp_path: Path, local: int, external: int, quota: int) -> None:
    source = make_source(tmp_path, local=local, external=external)
    honest(source, 3, 10)
    assert max(peers_of(source.draw(seed=0)).values()) == quota
    honest(source, 20, 10, round_=1)
    drawn = source.draw(seed=0)
    assert len(drawn) == external
    assert max(peers_of(drawn).values()) <= quota


def test_an_open_swarm_has_one_cap_for_all_peers_together(tmp_path: Path) -> None:
    source = make_source(tmp_path, open=True)
    honest(source, 1000)
    assert len(source.draw(seed=0)) == 4
    assert len(make_source(tmp_path / "small", open=True, local=1, external=1).draw(seed=0)) == 0


@pytest.mark.slow
def test_a_thousand_fresh_identities_do_not_push_known_peers_out(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    for round_ in range(12):
        honest(source, 4, 2, round_=round_, start="known")
        source.draw(seed=round_)
    honest(source, 1000, 1, round_=20, start="fresh")
    honest(source, 4, 2, round_=20, start="known")
    drawn = peers_of(source.draw(seed=5))
    assert sum(count for peer, count in drawn.items() if peer.startswith("known")) >= 6


def test_groups_that_are_all_wrong_are_dropped_and_others_drawn_instead(tmp_path: Path) -> None:
    source = make_source(tmp_path, local=2, external=2)
    source.take_in(
        [letter(f"wrong {n}", shared_group(n, right=0)) for n in range(6)]
        + [letter("telling", shared_group(8)), letter("always right", shared_group(9, right=4))]
    )
    assert set(peers_of(source.draw(seed=0))) == {"telling", "always right"}
    assert source.refusals["all completions wrong"] > 0


def test_groups_with_equal_rewards_are_dropped_if_the_loss_compares_rewards(tmp_path: Path) -> None:
    source = make_source(tmp_path, local=2, external=2, needs_spread=True)
    source.take_in([letter("always right", shared_group(0, right=4)), letter("telling", shared_group(1))])
    assert set(peers_of(source.draw(seed=0))) == {"telling"}
    assert source.refusals["all rewards equal"] == 1


def test_equal_peers_are_drawn_evenly_and_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    drawn: Counter[str] = Counter()
    for seed in range(60):
        source = make_source(tmp_path / str(seed), local=1, external=2)
        honest(source, 6, 3)
        drawn += peers_of(source.draw(seed=seed))
    assert sum(drawn.values()) == 120
    assert min(drawn.values()) > 8
    twice = [make_source(tmp_path / f"again {n}", local=1, external=2) for n in range(2)]
    for source in twice:
        honest(source, 6, 3)
    assert twice[0].draw(seed=7) == twice[1].draw(seed=7)


@pytest.mark.slow
def test_a_peer_that_sends_more_groups_is_not_drawn_more_often(tmp_path: Path) -> None:
    drawn: Counter[str] = Counter()
    for seed in range(60):
        source = make_source(tmp_path / str(seed), local=1, external=1)
        honest(source, 3, 1)
        honest(source, 1, 40, start="flood")
        drawn += peers_of(source.draw(seed=seed))
    assert drawn["flood 0"] < 30


def test_nothing_is_drawn_from_a_quarantined_peer(tmp_path: Path) -> None:
    source = make_source(tmp_path, local=4, external=4)
    honest(source, 3, 2)
    everyone = {offer.peer for offers in source.pool.offers("answer").values() for offer in offers}
    barred = min(everyone)
    source.barred = frozenset({barred})
    assert set(peers_of(source.draw(seed=0))) == everyone - {barred}
    source.barred = frozenset()
    assert barred in peers_of(source.draw(seed=1))


def test_a_node_does_not_learn_from_itself(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    source.take_in([letter(ME, shared_group(0))])
    assert source.draw(seed=0) == []


# What hostile peers send. Each group is rejected, counted if it is a fault, and does not affect other peers.


def noise(length: int, seed: int = 0) -> str:
    chance = random.Random(seed)
    return "".join(chance.choice(string.ascii_letters + "     ") for _ in range(length))


def dressed(index: int, text: str, *, round_: int = 0) -> SharedGroup:
    """Return a group whose correct answers have ``text`` before them."""
    group = shared_group(index, round_=round_)
    return replace(group, texts=tuple(f"{text}{each}" for each in group.texts))


class Generous(Lenient):
    """Finds the right answer in a longer one, as some verifiers of mathematics do."""

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
        return [
            Score(float(str(question.entry["answer"]) in text), True, "compared")
            for question, text in zip(questions, completions, strict=True)
        ]


@pytest.mark.parametrize(("right", "drawn"), [("aaaaaaaa{}", True), ("buy gold at example.com {}", False)])
def test_text_hidden_in_a_correct_answer_is_rejected(tmp_path: Path, right: str, drawn: bool) -> None:
    group = shared_group(0)
    answer = Spelling().questions("train", 0, 1)[0].entry["answer"]
    texts = (f"<answer>{right.format(answer)}</answer>", *group.texts[1:])
    source = make_source(tmp_path, tasks=Generous())
    assert bool(draw_alone(source, replace(group, texts=texts))) is drawn
    assert source.refusals["answer with other text in it"] == (not drawn)
    # An honest peer may write so, too, and wrong answers teach nothing.
    assert source.book.record("hostile").refused == 0
    wrong = replace(shared_group(1), texts=(*shared_group(1).texts[:3], f"<answer>{'no ' * 20}</answer>"))
    assert draw_alone(source, wrong)


HOSTILE = {
    "wrong number of completions": (shared_group(0, size=3), {}),
    "text far too long": (dressed(0, noise(16 * 64)), {}),
    "completion longer than this node's limit": (dressed(0, noise(100)), {"fault": False}),
    "invalid completion tokens": (dressed(0, "<|end|>"), {"fault": False}),
    "question index out of range": (replace(shared_group(0), index=10**9), {}),
    "question differs from this node's": (shared_group(0, question="00" * 32), {"fault": False}),
    "round is in the future": (shared_group(0, round_=0), {"round_": 10**9}),
    "repetitive text": (dressed(0, "buy gold " * 60), {"longest": 2000}),
}


@pytest.mark.parametrize("why", HOSTILE)
def test_a_hostile_group_is_rejected_and_an_honest_one_is_kept(tmp_path: Path, why: str) -> None:
    group, options = HOSTILE[why]
    source = make_source(tmp_path, tasks=Lenient(), longest=options.get("longest", 64))
    honest(source, 1)
    drawn = draw_alone(source, group, round_=options.get("round_", 0))
    assert set(peers_of(drawn)) == {"peer 0"}
    assert source.refusals[why] == 1
    assert source.book.record("hostile").refused == options.get("fault", True)
    assert source.book.record("peer 0").refused == 0


def test_a_different_question_counts_as_skew_not_as_a_lie(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    draw_alone(source, shared_group(0, task="sums"))
    record = source.book.record("hostile")
    assert (record.skewed, record.refused, weight(record.standing)) == (1, 0, 1.0)


@pytest.mark.parametrize("data", [b"", b"\x91" * 10_000, b"PK\x03\x04" + b"\0" * 1000, b"\xff" * (3 * 2**20)])
def test_invalid_bundles_cost_reputation_and_nothing_else(tmp_path: Path, data: bytes) -> None:
    source = make_source(tmp_path)
    honest(source, 1)
    source.take_in([Letter("hostile", data)] * 30)
    assert weight(source.book.standing("hostile")) == FLOOR
    assert set(peers_of(source.draw(seed=0))) == {"peer 0"}


def test_a_bundle_in_another_peers_name_is_rejected(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    source.take_in([Letter("hostile", letter("victim", shared_group(0)).data)])
    assert source.draw(seed=0) == []
    assert source.book.record("victim").refused == 0


def test_inflated_claims_change_no_reward_and_cost_reputation(tmp_path: Path) -> None:
    source = make_source(tmp_path, local=64, external=64)
    for round_ in range(4):
        groups = [shared_group(i, round_=round_, right=1, outcomes=(FULL,) * 4) for i in range(8)]
        source.take_in([letter("liar", *groups, round_=round_)])
        honest(source, 1, 8, round_=round_)
        drawn = [group for group in source.draw(seed=round_) if group.rollouts[0].source == "liar"]
        assert all([score.outcome for score in group.scores] == [1.0, 0.0, 0.0, 0.0] for group in drawn)
    assert weight(source.book.standing("liar")) == FLOOR
    assert weight(source.book.standing("peer 0")) == 1.0


def test_a_group_sent_again_is_not_used_again(tmp_path: Path) -> None:
    source = make_source(tmp_path)
    assert len(draw_alone(source, shared_group(0))) == 1
    assert draw_alone(source, shared_group(0, label="another")) == []
    assert source.book.record("hostile").refused == 0  # it may be an honest node that was restarted
    again = make_source(tmp_path / "again")
    again.vetting.remember_used([("hostile", 0, shared_group(0).question)])
    assert draw_alone(again, shared_group(0)) == []


def test_long_copies_of_other_peers_are_dropped(tmp_path: Path) -> None:
    source = make_source(tmp_path, tasks=Lenient(), longest=2000)
    reasoning = [noise(300, seed) for seed in range(4)]
    group = shared_group(0)
    long = replace(group, texts=tuple(r + t for r, t in zip(reasoning, group.texts, strict=True)))
    source.take_in([letter("author", long)])
    assert len(source.draw(seed=0)) == 1
    source.take_in([letter("copyist", long), letter("brief", group), letter("brief too", group)])
    # Short correct answers are alike because they are correct.
    assert set(peers_of(source.draw(seed=0))) == {"brief", "brief too"}
    assert source.refusals["copied from another node"] == 1


def test_copies_of_this_nodes_own_text_are_dropped(tmp_path: Path) -> None:
    source = make_source(tmp_path, tasks=Lenient(), longest=2000)
    group = dressed(0, noise(300))
    (mine,) = draw_alone(source, group)
    other = make_source(tmp_path / "other", tasks=Lenient(), longest=2000)
    other.vetting.remember_own([mine])
    assert draw_alone(other, group) == []
    assert other.refusals["copied from another node"] == 1


def test_near_duplicates_are_learned_from_once(tmp_path: Path) -> None:
    source = make_source(tmp_path, tasks=Lenient(), longest=2000, local=64, external=64)
    advert = noise(600)
    kept = 0
    for round_ in range(10):
        source.take_in([letter("hostile", dressed(0, f"{round_} {advert}", round_=round_), round_=round_)])
        kept += len(source.draw(seed=round_))
    assert kept == 1
    assert source.book.record("hostile").refused == 9


def test_repetitive_near_duplicates_are_learned_from_once(tmp_path: Path) -> None:
    source = make_source(tmp_path, tasks=Lenient(), longest=2000, local=64, external=64)
    advert = 8 * "the finest gold of the north, for you alone. "
    kept = 0
    for round_ in range(6):
        # A fifth of its distinct words is new each time, but hardly any of its content.
        source.take_in([letter("hostile", dressed(0, f"{noise(12, round_)} {advert}", round_=round_), round_=round_)])
        kept += len(source.draw(seed=round_))
    assert kept == 1
    assert source.book.record("hostile").refused == 5


def test_different_reasoning_per_question_is_not_a_duplicate(tmp_path: Path) -> None:
    source = make_source(tmp_path, tasks=Lenient(), longest=2000, local=64, external=64)
    for round_ in range(4):
        source.take_in([letter("peer", dressed(0, noise(600, round_), round_=round_), round_=round_)])
        assert len(source.draw(seed=round_)) == 1


def test_a_held_out_question_is_never_learned_from_a_peer(tmp_path: Path) -> None:
    class HoldingOut(Spelling):
        def questions(self, split: Any, round: int, count: int) -> list[Question]:
            return [question for question in super().questions(split, round, count + 1) if question.index != 0][:count]

    source = make_source(tmp_path, tasks=HoldingOut())
    source.take_in([letter("peer", shared_group(0), replace(shared_group(1), question="00" * 32))])
    assert source.draw(seed=0) == []
    assert source.refusals["question is held out on this node"] == 1
    assert source.book.record("peer").refused == 0


def test_f_tis_accepts_only_groups_whose_tokens_match_their_text(tmp_path: Path) -> None:
    def with_tokens(group: SharedGroup, shift: int = 0) -> SharedGroup:
        ids = tuple((*TOKENIZER.encode(text), TOKENIZER.eos_token_id) for text in group.texts)
        ids = tuple(tuple(token + shift for token in row) for row in ids)
        return replace(group, ids=ids, logps=tuple((-0.5,) * len(row) for row in ids))

    source = make_source(tmp_path, with_logps=True)
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
    plain = make_source(tmp_path / "plain")
    (group,) = draw_alone(plain, with_tokens(shared_group(0)))
    assert group.rollouts[0].behaviour_logps is None


def test_groups_whose_questions_are_slow_to_make_wait_for_another_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hivemind_exp.peers.source.MAKING_S", 0.05)

    class Slow(Spelling):
        def questions(self, split: Any, round: int, count: int) -> list[Question]:
            time.sleep(0.03)
            return super().questions(split, round, count)

    source = make_source(tmp_path, tasks=Slow())
    for round_ in range(8):
        source.take_in([letter(f"peer {round_}", shared_group(0, round_=round_), round_=round_)])
    drawn = [len(source.draw(seed=seed)) for seed in range(6)]
    assert 0 < drawn[0] < 8
    assert sum(drawn) == 8


def test_memory_is_bounded_under_a_flood(tmp_path: Path) -> None:
    source = make_source(tmp_path, pool=BundlePool(most_bytes=100_000))
    source.take_in([letter("peer", shared_group(0))])
    long = "x" * 4000
    for round_ in range(60):
        group = shared_group(0, round_=round_, texts=(long,) * 4)
        source.take_in([letter(f"flood {round_ % 3}", group, round_=round_)])
        assert source.pool.size <= 100_000
    assert "peer" in source.pool.offers("answer")


@pytest.fixture(scope="module")
def real_tasks() -> Iterator[Tasks]:
    """A mixture with worker processes, which verify the peers' text."""
    tasks = Mixture([TaskConfig(name="basic_arithmetic")], charter=SWARM.encode(), secret=b"s" * 32, heldout=0)
    yield tasks
    tasks.close()


def answers(tasks: Tasks, index: int, hostile: str) -> SharedGroup:
    """Return a group with one correct answer and three that say ``hostile``."""
    question = tasks.questions("train", 0, index + 1)[index]
    texts = (f"<answer>{question.entry['answer']}</answer>", *(f"<answer>{hostile}</answer>",) * 3)
    return SharedGroup(question.task, question.index, question.digest, "policy", "", (FULL,) * 4, (False,) * 4, texts)


def test_code_in_answers_never_runs_and_huge_numbers_block_no_one(tmp_path: Path, real_tasks: Tasks) -> None:
    trap = tmp_path / "trap"
    source = make_source(tmp_path, tasks=real_tasks, longest=2000)
    texts = [
        f"__import__('os').system('touch {trap}')",
        "9**9999999",
        "(" * 500 + "9" + ")**9" * 300,
        "\x1b]0;title\x07\x1b[2J",
        "<answer>" * 200,
        "٣" * 400,
    ]
    source.take_in(
        [letter(f"hostile {n}", answers(real_tasks, n, text)) for n, text in enumerate(texts)]
        + [letter("peer", answers(real_tasks, 7, "0"))]
    )
    drawn = source.draw(seed=0)
    assert not trap.exists()
    assert "peer" in peers_of(drawn)
    # Wrong answers earn nothing, however they are written. The right one in their group counts.
    assert all([score.outcome for score in group.scores] == [1.0, 0.0, 0.0, 0.0] for group in drawn)


def test_a_peer_that_blocks_the_verifier_is_skipped_for_a_while(tmp_path: Path) -> None:
    from hivemind_exp.tasks.workers.pool import TOO_SLOW

    held_up = 0

    class Slow(Spelling):
        def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
            nonlocal held_up
            found = super().score(questions, completions)
            held_up += sum("9**9" in text for text in completions)
            return [
                Score(0.0, True, TOO_SLOW) if "9**9" in text else score
                for score, text in zip(found, completions, strict=True)
            ]

    source = make_source(tmp_path, tasks=Slow())
    evil = shared_group(0, texts=("a", *("<answer>9**9999999</answer>",) * 3))
    honest(source, 1)
    assert set(peers_of(draw_alone(source, evil))) == {"peer 0"}
    assert held_up == 1  # not three times
    assert draw_alone(source, shared_group(1)) == []
    for seed in range(50):
        source.draw(seed=seed)
    assert len(draw_alone(source, shared_group(2))) == 1
