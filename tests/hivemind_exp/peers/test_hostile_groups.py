"""Hostile peers' groups: what is hidden in them, copied, claimed or repeated changes nothing."""

from __future__ import annotations

import random
import string
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hivemind_exp.config import TaskConfig
from hivemind_exp.peers.bundle import FULL, BundlePool, SharedGroup
from hivemind_exp.peers.records import FLOOR, weight
from hivemind_exp.tasks.base import Question, Score, Tasks
from hivemind_exp.tasks.mixture import Mixture
from tests.support.peer_draws import Lenient, draw_alone, honest, peers_of
from tests.support.peers import SWARM, Letter, letter, make_sampler, shared_group
from tests.support.spelling_task import Spelling


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
    source = make_sampler(tmp_path, tasks=Generous())
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
    source = make_sampler(tmp_path, tasks=Lenient(), longest=options.get("longest", 64))
    honest(source, 1)
    drawn = draw_alone(source, group, round_=options.get("round_", 0))
    assert set(peers_of(drawn)) == {"peer 0"}
    assert source.refusals[why] == 1
    assert source.book.record("hostile").refused == options.get("fault", True)
    assert source.book.record("peer 0").refused == 0


def test_a_different_question_counts_as_skew_not_as_a_lie(tmp_path: Path) -> None:
    source = make_sampler(tmp_path)
    draw_alone(source, shared_group(0, task="sums"))
    record = source.book.record("hostile")
    assert (record.skewed, record.refused, weight(record.standing)) == (1, 0, 1.0)


@pytest.mark.parametrize("data", [b"", b"\x91" * 10_000, b"PK\x03\x04" + b"\0" * 1000, b"\xff" * (3 * 2**20)])
def test_invalid_bundles_cost_reputation_and_nothing_else(tmp_path: Path, data: bytes) -> None:
    source = make_sampler(tmp_path)
    honest(source, 1)
    source.take_in([Letter("hostile", data)] * 30)
    assert weight(source.book.standing("hostile")) == FLOOR
    assert set(peers_of(source.draw(seed=0))) == {"peer 0"}


def test_a_bundle_in_another_peers_name_is_rejected(tmp_path: Path) -> None:
    source = make_sampler(tmp_path)
    source.take_in([Letter("hostile", letter("victim", shared_group(0)).data)])
    assert source.draw(seed=0) == []
    assert source.book.record("victim").refused == 0


def test_inflated_claims_change_no_reward_and_cost_reputation(tmp_path: Path) -> None:
    source = make_sampler(tmp_path, local=64, external=64)
    for round_ in range(4):
        groups = [shared_group(i, round_=round_, right=1, outcomes=(FULL,) * 4) for i in range(8)]
        source.take_in([letter("liar", *groups, round_=round_)])
        honest(source, 1, 8, round_=round_)
        drawn = [group for group in source.draw(seed=round_) if group.rollouts[0].source == "liar"]
        assert all([score.outcome for score in group.scores] == [1.0, 0.0, 0.0, 0.0] for group in drawn)
    assert weight(source.book.standing("liar")) == FLOOR
    assert weight(source.book.standing("peer 0")) == 1.0


def test_a_group_sent_again_is_not_used_again(tmp_path: Path) -> None:
    source = make_sampler(tmp_path)
    assert len(draw_alone(source, shared_group(0))) == 1
    assert draw_alone(source, shared_group(0, label="another")) == []
    assert source.book.record("hostile").refused == 0  # it may be an honest node that was restarted
    again = make_sampler(tmp_path / "again")
    again.vetting.remember_used([("hostile", 0, shared_group(0).question)])
    assert draw_alone(again, shared_group(0)) == []


def test_long_copies_of_other_peers_are_dropped(tmp_path: Path) -> None:
    source = make_sampler(tmp_path, tasks=Lenient(), longest=2000)
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
    source = make_sampler(tmp_path, tasks=Lenient(), longest=2000)
    group = dressed(0, noise(300))
    (mine,) = draw_alone(source, group)
    other = make_sampler(tmp_path / "other", tasks=Lenient(), longest=2000)
    other.vetting.remember_own([mine])
    assert draw_alone(other, group) == []
    assert other.refusals["copied from another node"] == 1


def test_near_duplicates_are_learned_from_once(tmp_path: Path) -> None:
    source = make_sampler(tmp_path, tasks=Lenient(), longest=2000, local=64, external=64)
    advert = noise(600)
    kept = 0
    for round_ in range(10):
        source.take_in([letter("hostile", dressed(0, f"{round_} {advert}", round_=round_), round_=round_)])
        kept += len(source.draw(seed=round_))
    assert kept == 1
    assert source.book.record("hostile").refused == 9


def test_repetitive_near_duplicates_are_learned_from_once(tmp_path: Path) -> None:
    source = make_sampler(tmp_path, tasks=Lenient(), longest=2000, local=64, external=64)
    advert = 8 * "the finest gold of the north, for you alone. "
    kept = 0
    for round_ in range(6):
        # A fifth of its distinct words is new each time, but hardly any of its content.
        source.take_in([letter("hostile", dressed(0, f"{noise(12, round_)} {advert}", round_=round_), round_=round_)])
        kept += len(source.draw(seed=round_))
    assert kept == 1
    assert source.book.record("hostile").refused == 5


def test_different_reasoning_per_question_is_not_a_duplicate(tmp_path: Path) -> None:
    source = make_sampler(tmp_path, tasks=Lenient(), longest=2000, local=64, external=64)
    for round_ in range(4):
        source.take_in([letter("peer", dressed(0, noise(600, round_), round_=round_), round_=round_)])
        assert len(source.draw(seed=round_)) == 1


def test_memory_is_bounded_under_a_flood(tmp_path: Path) -> None:
    source = make_sampler(tmp_path, pool=BundlePool(most_bytes=100_000))
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
    source = make_sampler(tmp_path, tasks=real_tasks, longest=2000)
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
    from hivemind_exp.tasks.workers.checked_replies import TOO_SLOW

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

    source = make_sampler(tmp_path, tasks=Slow())
    evil = shared_group(0, texts=("a", *("<answer>9**9999999</answer>",) * 3))
    honest(source, 1)
    assert set(peers_of(draw_alone(source, evil))) == {"peer 0"}
    assert held_up == 1  # not three times
    assert draw_alone(source, shared_group(1)) == []
    for seed in range(50):
        source.draw(seed=seed)
    assert len(draw_alone(source, shared_group(2))) == 1
