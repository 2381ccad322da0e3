"""Questions that teach nothing rest, and generated ones move to the level where some answers are right.

Both follow from the journal, so a killed node asks the same questions again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hivemind_exp.config import Config, TaskConfig
from hivemind_exp.game_settings import GameConfig
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Manifest, QuestionResult
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import GRPORunner, make_mixture
from hivemind_exp.seeds import derive_seed
from hivemind_exp.tasks.base import PacedTask, Question, Score
from hivemind_exp.tasks.mixture import Mixture
from hivemind_exp.trainer import pacing
from hivemind_exp.trainer.calibration import ROUND
from hivemind_exp.trainer.pacing import JournalPacing
from tests.support.nodes import Events, make_config
from tests.support.restarts import same_weights

LEVELS = [{"max_terms": 2, "min_terms": 2}, {"max_terms": 3, "min_terms": 2}, {"max_terms": 4, "min_terms": 2}]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(tmp_path / "journal.sqlite", "swarm", durable=False)) as opened:
        yield opened


def play(journal: Journal, *results: QuestionResult) -> None:
    """Commit one step per result, in order."""
    for each in results:
        journal.commit(Manifest(journal.steps(), each.round, 0, 4, ()), results=[each])


def asked(round_: int, position: int, correct: int) -> QuestionResult:
    return QuestionResult(round_, "t", position, None, 4, correct, 4)


def at_level(round_: int, level: int, correct: int) -> QuestionResult:
    return QuestionResult(round_, "t", None, level, pacing.WINDOW, correct, 0)


def paced(journal: Journal, *, lag: int = 0, **game: Any) -> tuple[JournalPacing, Events]:
    events = Events()
    return JournalPacing(GameConfig(**game), journal, lag, events), events


def test_questions_always_or_never_solved_rest_and_wake_up_again(journal: Journal) -> None:
    play(journal, *(asked(round_, position, 4 * (position % 2)) for round_ in (0, 5) for position in range(4)))
    play(journal, *(asked(5, position, 2) for position in range(4, 9)))  # some were right
    chosen, _ = paced(journal, rest=2)
    # A pass takes 5 rounds, so they rest for the 10 rounds after round 5.
    assert [sorted(chosen.resting("t", round_, 20, 4)) for round_ in (5, 6, 14, 15)] == [
        [],
        [0, 1, 2, 3],
        [0, 1, 2, 3],
        [],
    ]
    assert paced(journal, rest=1)[0].resting("t", 10, 20, 4) == frozenset()
    assert paced(journal, rest=0)[0].resting("t", 6, 20, 4) == frozenset()


def test_one_unanimous_turn_is_not_enough_and_the_turns_must_agree(journal: Journal) -> None:
    play(journal, asked(0, 0, 4), asked(0, 1, 0), asked(0, 2, 4), asked(1, 1, 4), asked(1, 2, 3), asked(1, 9, 1))
    assert paced(journal, rest=9)[0].resting("t", 3, 20, 1) == frozenset()


def test_a_round_never_runs_out_of_questions(journal: Journal) -> None:
    play(journal, *(asked(round_, position, 4) for round_ in (0, 1) for position in range(10)))
    play(journal, *(asked(2, position, 4) for position in (4, 5)))
    resting = paced(journal, rest=3)[0].resting("t", 3, 12, 3)
    assert len(resting) == 10 - 3
    assert {4, 5} <= resting  # those that would rest longest


def test_later_rounds_do_not_change_an_earlier_rounds_choice(journal: Journal) -> None:
    play(journal, *(asked(round_, 0, 4) for round_ in (0, 1)), *(asked(1, n, 1) for n in range(1, 9)))
    early, _ = paced(journal, lag=2, rest=2)
    assert early.resting("t", 3, 20, 4) == frozenset()
    assert early.resting("t", 4, 20, 4) == {0}
    play(journal, asked(2, 0, 1), asked(3, 0, 4))
    late, _ = paced(journal, lag=2, rest=2)
    assert late.resting("t", 4, 20, 4) == {0}


def test_a_calibration_asks_questions_of_the_first_rounds_level(journal: Journal) -> None:
    task = TaskConfig(name="chain_sum", params={"min_terms": 2, "max_terms": 4})
    with closing(Mixture([task], charter=b"", secret=b"s", heldout=2, verifiers=1, curriculum=True)) as tasks:
        tasks.pacing = paced(journal, curriculum=True)[0]
        levels = [{question.level for question in tasks.questions("train", round_, 4)} for round_ in (ROUND, 0, -1)]
    assert levels == [{0}, {0}, {None}]


def test_the_level_follows_the_share_of_correct_completions(journal: Journal) -> None:
    most = pacing.WINDOW
    play(journal, at_level(0, 0, most), at_level(1, 1, most // 2), at_level(2, 1, most), at_level(3, 2, most))
    play(journal, at_level(4, 2, 0), at_level(5, 2, most), at_level(6, 1, 0), at_level(7, 0, 0))
    chosen, events = paced(journal, curriculum=True)
    #        0: easiest; 6: the result in round 5 was at another level; 8: there is no level below the easiest
    assert [chosen.level("t", round_, LEVELS) for round_ in range(9)] == [0, 1, 1, 2, 2, 1, 1, 0, 0]
    assert [event["message"] for event in events.of("note")] == [
        "t: level 1 of 3 from round 1 on (max_terms=2)",
        "t: level 2 of 3 from round 2 on (max_terms=3)",
        "t: level 3 of 3 from round 4 on (max_terms=4)",
        "t: level 2 of 3 from round 6 on (max_terms=3)",
        "t: level 1 of 3 from round 8 on (max_terms=2)",
    ]
    resumed, events = paced(journal, curriculum=True)
    assert [resumed.level("t", round_, LEVELS) for round_ in (7, 3, 5)] == [0, 2, 1]


def test_the_first_rounds_have_the_level_that_the_calibration_found(journal: Journal) -> None:
    chosen, events = paced(journal, curriculum=True)
    assert chosen.level("t", 0, LEVELS) == 0
    chosen.start_at({"t": 1, "easier": 9})
    assert chosen.level("t", 0, LEVELS) == 1
    assert chosen.level("easier", 0, LEVELS) == 2  # the task has fewer levels than at first
    assert chosen.level("other", 0, LEVELS) == 0
    play(journal, at_level(0, 1, pacing.WINDOW))
    assert [chosen.level("t", round_, LEVELS) for round_ in (1, 0)] == [2, 1]
    assert events.of("note")[1]["message"] == "t: level 2 of 3 from round 1 on (max_terms=3)"


def test_few_completions_do_not_change_the_level(journal: Journal) -> None:
    play(journal, QuestionResult(0, "t", None, 0, pacing.WINDOW - 1, pacing.WINDOW - 1, 0))
    chosen, _ = paced(journal, curriculum=True)
    assert chosen.level("t", 1, LEVELS) == 0
    play(journal, QuestionResult(1, "t", None, 0, 1, 1, 0))
    assert chosen.level("t", 2, LEVELS) == 1
    assert paced(journal, curriculum=True, lag=1)[0].level("t", 2, LEVELS) == 0


def test_a_task_without_easier_parameters_is_reported_once(journal: Journal) -> None:
    chosen, events = paced(journal, curriculum=True)
    assert [chosen.level("t", round_, []) for round_ in range(3)] == [None] * 3
    (note,) = events.of("note")
    assert note["message"] == "the task t has no easier parameters, so game.curriculum does not change its level"
    chosen, events = paced(journal)
    assert chosen.level("t", 0, []) is None
    assert not events.all


def of(task: str, round_: int, correct: int, level: int | None = None) -> QuestionResult:
    return QuestionResult(round_, task, None, level, 4, correct, 0)


def test_a_task_whose_groups_differ_is_asked_more_often_than_one_whose_groups_tie(journal: Journal) -> None:
    tasks = [PacedTask("some", 1.0, ()), PacedTask("none", 1.0, ()), PacedTask("all", 2.0, ())]
    play(journal, *(of(task, n, right) for n in range(16) for task, right in (("some", 1), ("none", 0), ("all", 4))))
    chosen, events = paced(journal, curriculum=True)
    assert chosen.weights(0, tasks) == [1, 1, 2], "as set, before anything is known"
    assert chosen.weights(4, tasks) == [1, Fraction(2, 6), Fraction(4, 6)]
    assert chosen.weights(16, tasks) == [1, Fraction(2, 18), Fraction(4, 18)]
    assert chosen.weights(40, tasks) == [1, Fraction(2, 18), Fraction(4, 18)], "never nothing"
    play(journal, *(of("none", n, 2) for n in range(16, 20)))
    assert paced(journal, curriculum=True)[0].weights(20, tasks) == [1, Fraction(6, 18), Fraction(4, 18)], "it is back"
    first, *_, last = events.of("curriculum")
    assert (first["round"], first["tasks"]["all"]) == (
        0, {"share": 0.5, "differing": None, "groups": 0, "level": None, "levels": None}
    )  # fmt: skip
    assert last["tasks"]["some"] == {"share": 0.75, "differing": 1.0, "groups": 16, "level": None, "levels": None}
    assert paced(journal)[0].weights(20, tasks) is None


def test_shares_of_a_round_do_not_depend_on_later_rounds_or_on_when_they_are_asked_for(journal: Journal) -> None:
    tasks = [PacedTask("some", 1.0, ()), PacedTask("none", 1.0, ())]
    early, _ = paced(journal, curriculum=True, lag=2)
    found = []
    for n in range(12):
        found.append(early.weights(n, tasks))  # the rounds n - 2 and n - 1 are not in the journal's results that count
        play(journal, of("some", n, 3), of("none", n, 0))
    late, _ = paced(journal, curriculum=True, lag=2)
    assert [late.weights(n, tasks) for n in reversed(range(12))] == found[::-1]
    assert found[2] == [1, 1]
    assert found[3] == [1, Fraction(2, 3)]


def test_a_task_at_a_new_level_gets_its_whole_weight_again(journal: Journal) -> None:
    tasks = [PacedTask("t", 1.0, LEVELS), PacedTask("none", 1.0, ())]
    right = pacing.WINDOW // 4
    play(journal, *(of("t", n, 4, level=0) for n in range(right)), *(of("none", n, 0) for n in range(right)))
    chosen, events = paced(journal, curriculum=True)
    assert chosen.weights(right - 1, tasks) == [Fraction(2, 2 + right - 1), Fraction(2, 2 + right - 1)]
    assert chosen.weights(right, tasks) == [1, Fraction(2, 2 + right)]
    assert chosen.level("t", right, LEVELS) == 1
    assert [(event["round"], event["tasks"]["t"]["level"]) for event in events.of("curriculum")] == [
        (right - 1, 0),
        (right, 1),
    ]


def test_completions_of_others_say_nothing_about_a_task(journal: Journal) -> None:
    play(journal, *(QuestionResult(n, "t", None, None, 0, 0, 0) for n in range(9)))
    assert paced(journal, curriculum=True)[0].weights(9, [PacedTask("t", 1.0, ())]) == [1]


def test_a_round_that_is_asked_again_reports_nothing(journal: Journal) -> None:
    tasks = [PacedTask("t", 1.0, LEVELS)]
    play(journal, at_level(0, 0, pacing.WINDOW))
    chosen, events = paced(journal, curriculum=True)
    for round_ in (0, 1, 0, 1):
        chosen.weights(round_, tasks)
        chosen.level("t", round_, LEVELS)
    assert [event["tasks"]["t"]["level"] for event in events.of("curriculum")] == [0, 1]
    assert len(events.of("note")) == 2


def questions_file(tmp_path: Path, count: int = 10) -> Path:
    path = tmp_path / "sums.jsonl"
    lines = [json.dumps({"question": f"{n} + {n} = ?", "answer": str(2 * n)}) for n in range(count)]
    path.write_text("\n".join(lines))
    return path


class RestOdd:
    """Lets the odd positions rest, and asks generated questions at level 1."""

    def resting(self, _task: str, _round: int, size: int, _stride: int) -> frozenset[int]:
        return frozenset(range(1, size, 2))

    def level(self, _task: str, _round: int, levels: Sequence[Any]) -> int | None:
        return 1 if levels else None

    def weights(self, _round: int, _tasks: Sequence[Any]) -> None:
        return None


@pytest.mark.slow
def test_a_mixture_follows_its_pacing_only_in_training(tmp_path: Path) -> None:
    tasks = [TaskConfig(name="jsonl", path=str(questions_file(tmp_path))), TaskConfig(name="chain_sum")]
    made = Mixture(tasks, charter=b"c", secret=b"s", heldout=6, curriculum=True, groups=4, verifiers=1)
    with closing(made):
        before = [made.questions("train", round_, 4) for round_ in (-1, 0, 1)]
        made.pacing = RestOdd()
        rounds = [made.questions("train", round_, 4) for round_ in range(12)]
        every = list(chain.from_iterable(rounds))
        fixed = [each for each in every if each.task == "jsonl"]
        assert {each.position for each in fixed} <= {0, 2, 4, 6, 8}
        assert len({each.position for each in fixed}) >= 3  # some are held out
        assert all(len({each.digest for each in asked}) == 4 for asked in rounds)
        sums = [each for each in every if each.task == "chain_sum"]
        assert {each.level for each in sums} == {1}
        assert max(each.text.count("+") + each.text.count("-") for each in sums) <= 2  # at most 3 terms
        assert all(each.level is None for each in made.questions("heldout", 0, 6))
        assert made.questions("train", -1, 4) == before[0]
        made.pacing = None
        assert [made.questions("train", round_, 4) for round_ in (0, 1)] == before[1:]


class Weights(RestOdd):
    """Asks only the second task, but for a thousandth."""

    def resting(self, *_: Any) -> frozenset[int]:
        return frozenset()

    def weights(self, _round: int, tasks: Sequence[PacedTask]) -> list[Fraction]:
        assert [task.weight for task in tasks] == [3.0, 1.0]
        return [Fraction(1), Fraction(1000)]


@pytest.mark.slow
def test_weights_move_only_in_training_and_a_fixed_set_still_repeats_nothing(tmp_path: Path) -> None:
    tasks = [
        TaskConfig(name="chain_sum", weight=3.0),
        TaskConfig(name="jsonl", path=str(questions_file(tmp_path, count=400))),
    ]
    made = Mixture(tasks, charter=b"c", secret=b"s", heldout=40, curriculum=True, groups=8, verifiers=1)
    with closing(made):
        held = made.questions("heldout", 0, 40)
        made.pacing = Weights()
        rounds = [made.questions("train", round_, 8) for round_ in range(20)]
        asked = list(chain.from_iterable(rounds))
        fixed = [each.position for each in asked if each.task == "jsonl"]
        assert len(fixed) > 0.9 * len(asked)
        # A round asks eight of them instead of two, and the next round none of these again.
        assert len(set(fixed)) > 0.9 * len(fixed)
        assert made.questions("heldout", 0, 40) == held
        assert sum(each.task == "chain_sum" for each in held) > 20
        assert [made.questions("train", round_, 8) for round_ in (7, 3)] == [rounds[7], rounds[3]]


class MostlyRight(Mixture):
    """Rates 15 in 16 completions as right. Raises in the ``crash``-th call."""

    crash = calls = 0

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
        self.calls += 1
        if self.calls == self.crash:
            raise KeyboardInterrupt
        return [
            Score(float(derive_seed(question.digest, text) % 16 > 0), True, "chance")
            for question, text in zip(questions, completions, strict=True)
        ]


@pytest.mark.slow
def test_a_killed_node_asks_the_same_questions_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "WINDOW", 8)
    path = questions_file(tmp_path)

    events: list[Events] = []

    def run(root: Path, crash: int = 0) -> list[tuple[Any, ...]]:
        root.mkdir(exist_ok=True)
        events.append(Events())
        config = make_config(game={"rounds": 10, "groups": 4, "curriculum": True, "rest": 2}, eval={"every": 0})
        tasks = [
            {"name": "jsonl", "path": str(path), "weight": 3},
            {"name": "spell_backward", "params": {"max_word_len": 9}},
        ]
        config = Config.model_validate(config.model_dump() | {"tasks": tasks})

        def make(config: Config, files: NodeFiles) -> Mixture:
            made = make_mixture(config, files)
            made.__class__ = MostlyRight
            made.crash = crash  # type: ignore[attr-defined]
            return made

        GRPORunner(config, NodeFiles(root), events[-1], make_tasks=make).run()
        with closing(Journal(root / "journal.sqlite", "x")) as journal:
            return journal._db.execute("SELECT * FROM visits ORDER BY step, number").fetchall()

    whole = run(tmp_path / "whole")
    levels = {row[5] for row in whole if row[3] == "spell_backward"}
    assert len(levels) >= 3
    shares = [event["tasks"]["jsonl"]["share"] for event in events[0].of("curriculum")]
    assert shares[0] == 0.75
    assert max(shares) - min(shares) > 0.1
    with closing(Journal(tmp_path / "whole" / "journal.sqlite", "x")) as journal:
        assert paced(journal, rest=2)[0].resting("jsonl", 9, 10, 3)
    (tmp_path / "cut").mkdir()
    secret = (tmp_path / "whole" / "secret").read_bytes()
    NodeFiles(tmp_path / "cut").secret_file.write_bytes(secret)  # the same held-out questions
    for crash in (4, 7):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", crash)
    assert run(tmp_path / "cut") == whole
    assert same_weights(tmp_path / "whole", tmp_path / "cut")


def test_a_relay_has_no_curriculum() -> None:
    with pytest.raises(ValidationError, match="a relay does not train"):
        Config.model_validate({"offload": {"provider": "openai", "kind": "relay"}, "game": {"curriculum": True}})
