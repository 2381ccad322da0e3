"""The mixture: the same training questions on every node, none of them held out, and a score for any text."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_exp.config import TaskConfig
from hivemind_exp.errors import TaskError
from hivemind_exp.tasks.base import NO_ANSWER, PacedTask, Question
from hivemind_exp.tasks.mixture import FORGET_AFTER, Mixture
from hivemind_exp.tasks.registry import FAMILIES
from tests.support.hostile import evil_answers as evil

WORDS = TaskConfig(name="spell_backward", params={"min_word_len": 3, "max_word_len": 5})
SUMS = TaskConfig(name="chain_sum", weight=3.0)


@pytest.fixture(autouse=True)
def _family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "evil", evil.MODULE)


@pytest.fixture(scope="module")
def mixture() -> Iterator[Mixture]:
    made = Mixture([WORDS, SUMS], charter=b"charter", secret=b"secret", heldout=50, verifiers=1)
    yield made
    made.close()


def answered(question: Question) -> str:
    return f"<answer>{question.entry['answer']}</answer>"


def test_a_short_round_is_a_prefix_of_a_longer_one(mixture: Mixture) -> None:
    long, short = mixture.questions("train", 4, 300), mixture.questions("train", 4, 7)
    assert long[:7] == short
    assert len({question.key for question in long}) == 300
    assert [question.index for question in long] == sorted({question.index for question in long})
    assert not {q.text for q in mixture.questions("train", 5, 50)} & {q.text for q in short}


def test_questions_follow_the_weights(mixture: Mixture) -> None:
    tasks = Counter(question.task for question in mixture.questions("train", 0, 1000))
    assert 200 < tasks["spell_backward"] < 300


@pytest.mark.slow
def test_the_same_charter_makes_the_same_questions_in_any_process(mixture: Mixture) -> None:
    program = (
        "from hivemind_exp.config import TaskConfig; from hivemind_exp.tasks.mixture import Mixture\n"
        "from tests.hivemind_exp.tasks.test_mixture import WORDS, SUMS\n"
        "made = Mixture([WORDS, SUMS], charter=b'charter', secret=b'another', heldout=50, verifiers=1)\n"
        "for q in made.questions('train', 3, 200): print(q.index, q.digest)\n"
        "print('held'); [print(q.digest) for q in made.questions('heldout', 0, 50)]; made.close()"
    )
    environment = {"PYTHONHASHSEED": "77", "PYTHONPATH": "."}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    trained, _, held = run.stdout.partition("held\n")
    theirs = {int(index): digest for index, digest in (line.split() for line in trained.splitlines())}
    ours = {question.index: question.digest for question in mixture.questions("train", 3, 200)}
    both = set(ours) & set(theirs)
    assert len(both) > 150
    assert all(ours[index] == theirs[index] for index in both)
    assert len(set(held.split()) & {question.digest for question in mixture.questions("heldout", 0, 50)}) < 25


LEVELS = {"chain_sum": ({"max_terms": 2}, {"max_terms": 4}), "spell_backward": ()}


class AtWeights:
    """Asks sums at level 0, and the tasks in other shares."""

    def __init__(self, *weights: int) -> None:
        self._weights = [Fraction(weight) for weight in weights]

    def resting(self, *_: object) -> frozenset[int]:
        return frozenset()

    def level(self, _task: str, _round: int, levels: Sequence[object]) -> int | None:
        return 0 if levels else None

    def weights(self, _round: int, _tasks: Sequence[PacedTask]) -> list[Fraction]:
        return self._weights


@pytest.mark.slow
def test_a_peers_question_is_made_again_whatever_share_of_the_questions_its_task_has_here(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps({"question": f"{n}?", "answer": str(n)}) + "\n" for n in range(300)))
    tasks = [WORDS, SUMS, TaskConfig(name="jsonl", path=str(path), weight=2.0)]

    def made(secret: bytes, groups: int) -> Mixture:
        return Mixture(tasks, charter=b"c", secret=secret, heldout=30, verifiers=1, levels=LEVELS, groups=groups)

    with closing(made(b"one", 8)) as asking, closing(made(b"two", 32)) as reading:
        asking.pacing, reading.pacing = AtWeights(1, 2, 5), AtWeights(3, 1, 1)
        assert asking.levels_at(0) == {"chain_sum": 0}
        asked = [each for round_ in (0, 7) for each in asking.questions("train", round_, 40)]
        assert {each.task for each in asked} == {"spell_backward", "chain_sum", "jsonl"}
        again = [reading.question(each.task, each.round, each.index, each.level) for each in asked]
        held = {each.key for each in reading.questions("heldout", 0, 30)}
        assert sum(each is None for each in again) == sum(each.key in held for each in asked) > 0
        assert all(found in (None, each) for found, each in zip(again, asked, strict=True))
        theirs = reading.questions("train", 7, 40)
        assert [(each.task, each.index) for each in theirs] != [(each.task, each.index) for each in asked[40:]]
        sum_ = next(each for each in asked if each.task == "chain_sum")
        harder = reading.question("chain_sum", sum_.round, sum_.index, 1)
        own = reading.question("chain_sum", sum_.round, sum_.index, None)
        assert sum_.text.count("+") + sum_.text.count("-") == 1
        assert harder is not None
        assert own is not None
        assert len({sum_.digest, harder.digest, own.digest}) == 3
        examples = reading.examples(2)["chain_sum"]
        reading.set_aside([*examples, harder])
        assert reading.question("chain_sum", sum_.round, sum_.index, 1) is None


@pytest.mark.slow
def test_a_different_charter_makes_different_questions(mixture: Mixture) -> None:
    other = Mixture([WORDS, SUMS], charter=b"charter 2", secret=b"secret", heldout=50, verifiers=1)
    first, second = ({q.text for q in made.questions("train", 0, 50)} for made in (mixture, other))
    assert len(first & second) < 5
    assert mixture.digest("chain_sum") == other.digest("chain_sum"), (
        "charters pin the digest, so it must not depend on the charter"
    )
    assert mixture.digest("chain_sum") != mixture.digest("spell_backward")
    other.close()


@pytest.mark.slow
def test_held_out_questions_are_never_trained_on(mixture: Mixture) -> None:
    held = mixture.questions("heldout", 0, 50)
    assert len({question.key for question in held}) == 50
    assert mixture.questions("heldout", 9, 10) == held[:10]
    words = {str(question.entry["answer"]).lower() for question in held if question.task == "spell_backward"}
    for number in (-1, 0):
        for question in mixture.questions("train", number, 4000):
            answer = str(question.entry["answer"]).lower()
            assert question.task != "spell_backward" or (answer not in words and answer[::-1] not in words)


@pytest.mark.slow
def test_examples_are_neither_held_out_nor_trained_on_once_they_are_set_aside() -> None:
    made = Mixture([WORDS, SUMS], charter=b"charter", secret=b"secret", heldout=50, verifiers=1)
    held = {question.key for question in made.questions("heldout", 0, 50)}
    examples = made.examples(3)
    assert {task: len(some) for task, some in examples.items()} == {"spell_backward": 3, "chain_sum": 3}
    assert made.examples(8)["chain_sum"][:3] == examples["chain_sum"]
    shown = [question for some in examples.values() for question in some]
    assert not held & {question.key for question in shown}
    made.set_aside(shown)
    assert made.questions("heldout", 0, 50)[0].key in held
    assert not {question.key for question in shown} & {each.key for each in made.questions("train", 0, 4000)}
    made.close()


@pytest.mark.slow
def test_examples_of_a_fixed_set_leave_enough_to_train_on(tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(f'{{"question": "{n} + 1?", "answer": "{n + 1}"}}\n' for n in range(20)))
    spec = TaskConfig(name="jsonl", path=str(path))
    made = Mixture([spec], charter=b"", secret=b"s", heldout=4, verifiers=1)
    before = made.questions("train", 0, 16)
    shown = made.examples(8)["jsonl"]
    made.set_aside(shown)
    after = {question.key for question in made.questions("train", 0, 12)}
    assert len(shown) == 4
    assert after == {question.key for question in before} - {question.key for question in shown}
    made.close()


@pytest.mark.slow
def test_a_round_before_the_first_draws_many_questions(mixture: Mixture) -> None:
    """A warm-up draws more questions than there are words."""
    many = mixture.questions("train", -1, 10_000)
    assert len(many) == 10_000
    assert many[0] not in mixture.questions("train", 0, 100)


def test_questions_repeat_once_a_task_is_used_up() -> None:
    tiny = Mixture([TaskConfig(name="evil", params={"space": 20})], charter=b"", secret=b"s", heldout=5, verifiers=1)
    keys = [question.key for question in tiny.questions("train", 0, 60)]
    assert len(set(keys[:15])) == len(set(keys)) == 15
    assert tiny.questions("train", 0, 30) == tiny.questions("train", 0, 60)[:30]
    assert FORGET_AFTER > 15
    tiny.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "why", "fewer"),
    [(20, "only 20 distinct questions to hold out", 10), (50, "no questions besides the 50 held-out ones", 25)],
)
def test_too_few_questions_are_an_error(space: int, why: str, fewer: int) -> None:
    tiny = Mixture(
        [TaskConfig(name="evil", params={"space": space})], charter=b"", secret=b"s", heldout=50, verifiers=1
    )
    with pytest.raises(TaskError, match=why) as caught:
        tiny.questions("train", 0, 1)
    assert caught.value.next == f"swarmctl run --set eval.questions={fewer}"
    tiny.close()


def test_scores_have_a_reason(mixture: Mixture) -> None:
    question = next(q for q in mixture.questions("train", 0, 50) if q.task == "spell_backward")
    right = str(question.entry["answer"])
    completions = [
        answered(question),
        f"so {answered(question)}",
        f"<answer>{right}x</answer>",
        "<answer>?</answer>",
        right,
        f"The answer is **{right}**.",
        "",
    ]
    scores = mixture.score([question] * 7, completions)
    assert [(score.outcome, score.strict, score.why) for score in scores] == [
        (1.0, True, "correct"),
        (1.0, False, "correct"),
        (0.0, True, "not fully correct"),
        (0.0, True, "wrong"),
        (1.0, True, "correct"),
        (1.0, False, "correct"),
        (0.0, False, NO_ANSWER),
    ]
    assert mixture.score([], []) == []


@pytest.mark.slow
def test_partial_credit_is_given_if_enabled(mixture: Mixture) -> None:
    paying = Mixture([WORDS], charter=b"", secret=b"", heldout=0, partial_credit=True, verifiers=1)
    (question,) = paying.questions("train", 0, 1)
    (score,) = paying.score([question], [f"<answer>{question.entry['answer']}x</answer>"])
    assert (score.outcome, score.correct) == (0.8, False)
    paying.close()


def test_answers_are_matched_with_their_questions(mixture: Mixture) -> None:
    questions = mixture.questions("train", 2, 128)
    answers = [answered(question) for question in questions]
    assert all(score.correct for score in mixture.score(questions, answers))
    moved = mixture.score(questions, answers[1:] + answers[:1])
    assert sum(score.correct for score in moved) < 5


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(text=st.text(alphabet=st.characters(codec=None), max_size=200))
def test_any_text_has_a_score(text: str, mixture: Mixture) -> None:
    question = mixture.questions("train", 0, 1)[0]
    for score in mixture.score([question] * 2, [text, f"<answer>{text}</answer>"]):
        assert 0.0 <= score.outcome <= 1.0
