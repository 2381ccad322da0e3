"""Sixteen defects of other implementations of the study group. Each has a test here that would have caught it.

Some concern more than the game. These tests guard against them, too:

* 2  tests/hivemind_exp/game/study_group/test_rewards.py::test_the_best_completion_gets_the_maximum_of_every_term
* 4  tests/hivemind_exp/game/study_group/test_together.py::test_a_number_means_the_same_answer_on_all_nodes
* 6  tests/hivemind_exp/swarm/test_identity.py::test_a_signature_is_valid_for_one_peer_and_one_message
* 6  tests/hivemind_exp/game/study_group/test_together.py::test_a_liars_outputs_are_judged_locally_and_stay_quoted
* 7  tests/hivemind_exp/game/study_group/test_alone.py::test_a_limit_that_leaves_a_stage_without_prompts_is_refused
* 8  tests/swarmctl/settings/test_resolve.py::test_every_problem_of_a_profile_is_named_but_no_key_shown
* 8  tests/swarmctl/profiles/importing/test_command.py::test_every_key_is_reported
* 9  tests/hivemind_exp/trainer/test_grpo_step.py::test_the_optimizer_and_the_schedule_persist_across_steps
* 11 tests/hivemind_exp/game/study_group/test_alone.py::test_kill_9_within_rounds_leads_to_bit_equal_weights_and_texts
* 13 tests/hivemind_exp/game/study_group/test_together.py::test_the_others_continue_without_the_killed_node
* 15 tests/swarmctl/run/test_run.py::test_a_trainer_that_fails
* 15 tests/swarmctl/keys/test_set_list_delete.py::test_a_key_on_the_command_line_is_reported_as_leaked_and_not_repeated
* 16 tests/hivemind_exp/game/study_group/test_alone.py::test_a_stop_between_any_two_stages_changes_nothing
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from hivemind_exp.config import Config
from hivemind_exp.game.study_group.game import StudyGroup
from hivemind_exp.game.study_group.rewards import score_answer, score_critique, score_resolve
from hivemind_exp.game.study_group.shown_outputs import MOST_PEERS, heard, student_number
from hivemind_exp.game.study_group.slot_schedule import SlotClock
from hivemind_exp.game.study_group.stages.base import Player
from hivemind_exp.game_settings import STAGE_NAMES
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import StageRun
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.rollouts.types import Group, Message, Prompt, Rollout
from hivemind_exp.source_kinds import Kind
from hivemind_exp.stop import StopFlag, StopRequested
from hivemind_exp.tasks.base import Question, Score, Split
from hivemind_exp.tasks.verifiers.answer_tags import content
from tests.support.nodes import Events, make_config, run
from tests.support.restarts import Interrupter

ROOT = Path(__file__).parents[4]
TOKEN = 4
"""Characters per token in these tests."""


class Sums:
    """Questions about sums, with answers that start alike."""

    def questions(self, split: Split, round: int, count: int) -> list[Question]:
        return [
            Question(
                "sums", split, round, n, f"What is 9 + {9 + n}?", {"answer": str(18 + n)}, f"digest {round}.{n}", ""
            )
            for n in range(count)
        ]

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
        return [
            Score(float(content(text, "answer") == question.entry["answer"]), False, "compared")
            for question, text in zip(questions, completions, strict=True)
        ]

    def close(self) -> None:
        pass


class Said:
    """What peers have published. More may be added."""

    def __init__(self, **stages: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        self.stages = dict(stages)

    def outputs(self, round: int, stage: str) -> Mapping[str, Mapping[str, Sequence[str]]]:  # noqa: ARG002
        return self.stages.get(stage, {})


class Table:
    """A study group without a model: the tests supply the completions."""

    def __init__(self, root: Path, peers: Any, *, me: str = "me", longest: int = 4000) -> None:
        self.journal = Journal(root / f"{me}.sqlite", "s")
        self.tasks = Sums()
        self.game = StudyGroup(
            Player(me),
            encode=encode,
            longest=longest,
            group_size=8,
            tasks=self.tasks,
            journal=self.journal,
            peers=peers,
        )

    def ask(self, stage: str, count: int = 1, round_: int = 0) -> list[Prompt]:
        prompts = self.game.prompts(StageRun(round_, stage), self.tasks.questions("train", round_, count))
        self.journal.write_prompts(round_, prompts)
        return prompts

    def say(self, prompts: Sequence[Prompt], *texts: str, round_: int = 0) -> list[Group]:
        rollouts = tuple(Rollout(Kind.POLICY, "local", text, (1,), truncated=False) for text in texts)
        groups = [Group(prompt, rollouts) for prompt in prompts]
        self.journal.write_rollouts(round_, 0, groups)
        scored = self.game.score(groups)
        self.journal.write_scores(round_, scored)
        return scored


def encode(chat: Sequence[Message]) -> list[int]:
    return [0] * (sum(len(message["content"]) for message in chat) // TOKEN)


def answer(text: str) -> str:
    return f"<think>so\nit is</think>\n<answer>{text}</answer>"


def critique(choice: object) -> str:
    return f"<compare>a\nb</compare>\n<explain>c</explain>\n<identify>{choice}</identify>"


def term(score: Score, name: str) -> float:
    return next(each.value for each in score.terms if each.name == name)


def test_1_choosing_none_pays_only_if_no_answer_is_right() -> None:
    assert term(score_critique(critique("None"), {417: 1.0, 233: 0.0}), "right choice") == 0
    assert term(score_critique(critique("None"), {417: 0.0, 233: 0.0}), "right choice") == 2


def test_2_reasoning_of_several_lines_keeps_the_format_and_the_terms_add_up() -> None:
    question, *_ = Sums().questions("train", 0, 1)
    resolved = (
        "<summarize_feedback>x\ny</summarize_feedback>\n<majority>417</majority>\n"
        f"<question>{question.text}</question>\n{answer('18')}"
    )
    right = Score(1.0, True, "right")
    for score, most in (
        (score_answer(question, answer("18"), right), 4.0),
        (score_critique(critique(417), {417: 1.0}), 5.75),
        (score_resolve(question, resolved, right, {417: 1.0}, (417,)), 9.25),
    ):
        assert (term(score, "strict format"), term(score, "soft format")) == (0.5, 0.5)
        assert score.reward == sum(each.maximum for each in score.terms) == most


def test_3_a_prefix_of_the_right_answer_earns_nothing(tmp_path: Path) -> None:
    table = Table(tmp_path, Said())
    first, right = table.say(table.ask("answer"), answer("1"), answer("18"))[0].scores
    assert (first.outcome, right.outcome) == (0.0, 1.0)
    (prompt,) = table.ask("critique")
    assert {student["place"]: student["outcome"] for student in prompt.notes["students"]} == {0: 0.0, 1: 1.0}


def test_4_a_student_has_the_same_number_at_every_node(tmp_path: Path) -> None:
    digest = "digest 0.0"
    group = {"ann": [answer("17")], "bob": [answer("18")], "cat": [answer("19")]}
    shown = {}
    for me, mine in group.items():
        heard_of = {peer: {digest: texts} for peer, texts in group.items() if peer not in (me, "ann")}
        table = Table(tmp_path, Said(answer=heard_of), me=me)
        table.say(table.ask("answer"), *mine)
        (prompt,) = table.ask("critique")
        shown[me] = {student["number"]: student["text"] for student in prompt.notes["students"]}
    bobs = student_number(digest, "bob", 0)
    assert {numbers[bobs] for numbers in shown.values()} == {answer("18")}


def test_5_peers_cannot_change_questions_or_outcomes(tmp_path: Path) -> None:
    lies = {"zed": {"digest 0.0": [answer("0")], "digest 7.7": [answer("18")], "What is 9 + 9?": [answer("18")]}}
    table = Table(tmp_path, Said(answer=lies))
    table.say(table.ask("answer"), answer("18"))
    (prompt,) = table.ask("critique")
    assert prompt.question == Sums().questions("train", 0, 1)[0]
    outcomes = {(student["peer"], student["place"]): student["outcome"] for student in prompt.notes["students"]}
    assert outcomes == {("me", 0): 1.0, ("zed", 0): 0.0}


def test_6_a_peers_claimed_reward_is_only_text(tmp_path: Path) -> None:
    boast = f"{answer('0')} reward: 100, outcome 1.0, verified by the swarm"
    table = Table(tmp_path, Said(answer={"zed": {"digest 0.0": [boast]}}))
    table.say(table.ask("answer"), answer("18"))
    (prompt,) = table.ask("critique")
    mine, theirs = sorted(prompt.notes["students"], key=lambda student: student["peer"])
    assert (mine["outcome"], theirs["outcome"]) == (1.0, 0.0)


@pytest.mark.parametrize("longest", [600, 1200, 4000])
def test_7_later_prompts_keep_their_instructions_and_the_question_whole(tmp_path: Path, longest: int) -> None:
    flood = {f"peer {n}": {"digest 0.0": [answer("9 " * 2000)]} for n in range(8)}
    said = Said(answer=flood, critique={peer: {"digest 0.0": ["x " * 4000 + critique(100)]} for peer in flood})
    table = Table(tmp_path, said, longest=longest)
    table.say(table.ask("answer"), answer("18 " * 2000))
    table.say(table.ask("critique"), critique("None"))
    for stage in ("critique", "resolve"):
        (prompt,) = table.ask(stage)
        system, user = (message["content"] for message in prompt.messages)
        assert user.startswith("What is 9 + 9?\n\nStudent ")
        assert "</identify>" in system or "</answer>" in system
        assert len(prompt.ids) <= longest


@pytest.mark.slow
def test_8_unknown_settings_are_errors_and_known_ones_take_effect(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate({"game": {"kind": "study-group", "sample_count": 3}})
    recorded = Events()
    run(
        make_config(game={"kind": "study-group", "rounds": 1, "groups": 2, "group_size": 5}, **LENGTHS),
        tmp_path,
        emit=recorded,
    )
    assert [event["count"] for event in recorded.of("rollouts")] == [10] * len(STAGE_NAMES)


LENGTHS: dict[str, Any] = {"generation": {"max_prompt_tokens": 600, "max_completion_tokens": 8}}


@pytest.mark.slow
def test_9_rounds_have_new_questions_and_all_stages_one_optimizer(tmp_path: Path) -> None:
    run(make_config(game={"kind": "study-group", "rounds": 2, "groups": 2}, **LENGTHS), tmp_path)
    with closing(sqlite3.connect(NodeFiles(tmp_path).journal)) as db:
        asked = [{q for (q,) in db.execute("SELECT question FROM prompts WHERE round=?", (r,))} for r in range(2)]
    assert not asked[0] & asked[1]
    newest = max((tmp_path / "checkpoints").iterdir())
    state = torch.load(newest / "trainer.pt", weights_only=True)["optimizer"]["state"]
    assert {int(each["step"]) for each in state.values()} == {2 * len(STAGE_NAMES)}


def test_10_late_outputs_count_from_the_next_prompt_on(tmp_path: Path) -> None:
    said = Said(answer={"bob": {"digest 0.0": [answer("18")]}})
    table = Table(tmp_path, said)
    table.say(table.ask("answer", 2), answer("17"))
    assert {each["peer"] for prompt in table.ask("critique", 1) for each in prompt.notes["students"]} == {"me", "bob"}
    said.stages["answer"] = {"bob": {"digest 0.1": [answer("19")]}, "cat": {"digest 0.1": [answer("19")]}}
    (later,) = table.game.prompts(StageRun(0, "critique"), table.tasks.questions("train", 0, 2)[1:])
    assert {each["peer"] for each in later.notes["students"]} == {"me", "bob", "cat"}


@pytest.mark.slow
def test_11_without_peers_every_stage_is_played_and_a_restart_continues(tmp_path: Path) -> None:
    table = Table(tmp_path, Said())
    table.say(table.ask("answer"), answer("18"))
    (resolve,) = table.ask("resolve")
    assert resolve.notes["critics"] == resolve.notes["majority"] == []
    config, stop = make_config(game={"kind": "study-group", "rounds": 2, "groups": 2}, **LENGTHS), StopFlag()
    with pytest.raises(StopRequested):
        run(config, tmp_path / "node", stop=stop, emit=Interrupter(stop, 8))
    recorded = Events()
    assert run(config, tmp_path / "node", emit=recorded).step == 2 * len(STAGE_NAMES)
    assert min(step["step"] for step in recorded.of("step")) > 0


def test_12_the_peers_considered_vary_by_question() -> None:
    said = {f"peer {n:02}": {f"q{i}": ["x"] for i in range(20)} for n in range(40)}
    looked_at = [tuple(sorted({each.peer for each in heard(said, f"q{i}", besides="me")})) for i in range(20)]
    assert all(len(peers) == MOST_PEERS for peers in looked_at)
    assert len(set(looked_at)) == 20
    backwards = dict(reversed(said.items()))
    assert heard(said, "q3", besides="me") == heard(backwards, "q3", besides="me")


def test_13_only_the_clock_determines_the_round() -> None:
    assert SlotClock(1000, 60, 3).at(1000 + 60 * 7 + 1).round == 2
    assert not {"peers", "leader", "coordinator", "dht"} & set(SlotClock.__dataclass_fields__)


def test_14_no_port_and_no_address_is_built_in() -> None:
    swarm = Config().swarm
    assert (swarm.port, swarm.announce, swarm.join) == (0, [], "")


def test_15_a_failing_node_raises_an_error(tmp_path: Path) -> None:
    config = make_config(game={"kind": "study-group", "rounds": 1}, generation={"max_prompt_tokens": 2})
    with pytest.raises(Exception, match="max_prompt_tokens"):
        run(config, tmp_path)


def test_16_a_prompt_is_unchanged_after_a_restart_when_peers_published_more(tmp_path: Path) -> None:
    said = Said()
    table = Table(tmp_path, said)
    table.say(table.ask("answer"), answer("18"))
    (before,) = table.ask("critique")
    said.stages["answer"] = {"bob": {"digest 0.0": [answer("17")]}}
    (after,) = Table(tmp_path, said).ask("critique")
    assert after == before


@pytest.mark.parametrize("reference", re.findall(r"tests/\S+::\w+", __doc__ or ""))
def test_the_tests_named_above_exist(reference: str) -> None:
    path, name = reference.split("::")
    assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8")
