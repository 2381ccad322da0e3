"""Environments of ``verifiers`` with several turns and with tools: installed for real, tried, trained on and shown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from hivemind_exp.config import TaskConfig
from hivemind_exp.errors import ModelError, TaskError
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.grpo_runner import GRPORunner
from hivemind_exp.tasks.base import Heard, ModelTurn, Question, Talk
from hivemind_exp.tasks.mixture import Mixture
from swarmctl.errors import Exit
from swarmctl.tasks.conversing import play_given
from swarmctl.tasks.opened import OpenedTask
from tests.support.command_line import UNTRAINED, write_profile
from tests.support.environments import Installed
from tests.support.nodes import make_config
from tests.support.recorded_events import Events
from tests.support.tiny_models import TEMPLATE, save_llama
from tests.support.two_turn_game import TwoTurnGame

pytestmark = pytest.mark.slow
HELD_OUT = 8
"""All held-out questions of two of these tasks: a fifth of 20 questions each."""


def call(a: object, b: object) -> str:
    return f"<tool_call>{json.dumps({'name': 'add', 'arguments': {'a': a, 'b': b}})}</tool_call>"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Install verifiers 0.1 with the test's environment."""
    here = Installed(tmp_path_factory.mktemp("turns"))
    done = here.run("tasks", "show", "env:guessing", "--yes", "-n", "1", "--json")
    assert done.returncode == Exit.DONE, done.stderr
    assert "guessing is written for an older verifiers, which is installed instead" in done.stderr
    here.shown = json.loads(done.stdout.splitlines()[-1])
    return here


@pytest.fixture(scope="module")
def mixture(installed: Installed) -> Iterator[Mixture]:
    """The environment in six kinds, in one set of workers: each of them imports verifiers, which takes seconds."""
    kinds = [
        TaskConfig(name="env:guessing"),
        TaskConfig(name="env:guessing", max_turns=2),
        TaskConfig(name="env:guessing", params={"kind": "add"}),
        TaskConfig(name="env:guessing", params={"kind": "forget"}),
        TaskConfig(name="env:guessing", params={"kind": "endless"}),
        TaskConfig(name="env:guessing", params={"kind": "reverse", "count": 12}),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", installed.variables["XDG_CACHE_HOME"])
        with closing(Mixture(kinds, charter=b"", secret=b"s", heldout=2, verifiers=1)) as opened:
            yield opened


def asked(mixture: Mixture, count: int, kind: str = "") -> list[Question]:
    """Return training questions of one kind of the environment."""
    questions = mixture.questions("train", 0, 40)
    return [each for each in questions if each.task == f"env:guessing{kind}"][:count]


class Player:
    """Takes turns in one conversation."""

    def __init__(self, mixture: Mixture, question: Question, name: str = "a") -> None:
        self._mixture, self._question, self._name = mixture, question, name
        self.turns: list[ModelTurn] = []

    def say(self, *texts: str, last: bool = False) -> Heard:
        for text in texts:
            self.turns.append(ModelTurn(text))
            (heard,) = self._mixture.reply([self._question], [Talk(self._name, 7, tuple(self.turns), last)])
            self.turns[-1] = ModelTurn(text, heard.messages)
        return heard


def test_a_conversation_ends_with_the_environments_verdict(mixture: Mixture) -> None:
    assert mixture.conversing() == [
        "env:guessing",
        "env:guessing-2",
        "env:guessing-3",
        "env:guessing-4",
        "env:guessing-5",
    ]
    question, other = asked(mixture, 2)
    assert question.turns == 5  # the environment's own limit is below ours
    assert [message["role"] for message in question.chat] == ["system", "user"]
    won = Player(mixture, question).say("x", str(question.entry["answer"]))
    assert won.messages == ({"role": "user", "content": "Right."},)
    assert won.score is not None
    assert [(term.name, term.value) for term in won.score.terms] == [("right", 1.0), ("fast", 0.25)]
    lost = Player(mixture, other, "b").say(*"abcde")
    assert lost.score is not None
    assert (lost.score.outcome, lost.score.reward) == (0.0, 0.1)
    assert Player(mixture, other, "c").say("x", last=True).score is not None
    (shorter,) = asked(mixture, 1, "-2")  # whose max_turns is below the environment's own limit
    player = Player(mixture, shorter, "d")
    assert player.say("x").score is None
    assert player.say("y").score is not None


def test_a_tool_is_called_with_what_the_model_wrote(mixture: Mixture) -> None:
    (question,) = asked(mixture, 1, "-3")
    assert '"name": "add"' in question.chat[0]["content"]
    one, other = map(int, re.findall(r"\d+", question.text))
    total = str(one + other)
    player = Player(mixture, question, "tool")
    heard = player.say(f"I add. {call(one, other)}")
    assert heard.messages == ({"role": "user", "content": f"<tool_response>\n{total}\n</tool_response>"},)
    score = player.say(total).score
    assert score is not None
    assert [(term.name, term.value) for term in score.terms] == [("right", 1.0), ("called", 0.5)]
    failed = Player(mixture, question, "wrong").say(call(one, "x"))
    assert failed.messages[0]["content"].startswith("<tool_response>\nunsupported operand")


def test_a_worker_that_dies_loses_no_conversation_that_can_be_played_again(mixture: Mixture) -> None:
    (question,) = asked(mixture, 1)
    whole, cut, process = (Player(mixture, question, name) for name in ("whole", "cut", "process"))
    whole.say("1", "2")
    cut.say("1")
    process.say("process")
    for worker in mixture._pool._verifiers[0]._workers:
        worker.end()
    cut.say("2")
    assert cut.turns == whole.turns  # the same chance, in another process
    assert process.say("2").lost  # it cannot be what the model heard
    assert Player(mixture, question, "after").say("2").score is None


def test_a_turn_runs_in_the_sandbox_and_one_that_fails_counts_as_wrong(mixture: Mixture) -> None:
    reasons = {"read": "PermissionError", "connect": "PermissionError", "spin": "1.5 s of CPU time"}
    (question,) = asked(mixture, 1)
    for said, why in reasons.items():
        score = Player(mixture, question, said).say(said).score
        assert score is not None
        assert (score.outcome, score.judged) == (0.0, True)
        assert why in score.why


def test_an_environment_that_changes_what_was_said_is_refused(mixture: Mixture) -> None:
    (question,) = asked(mixture, 1, "-4")
    with pytest.raises(TaskError, match="changes earlier messages of a conversation, which is not supported"):
        Player(mixture, question).say("x", "y")


def test_an_environment_that_never_ends_is_refused(mixture: Mixture) -> None:
    (question,) = asked(mixture, 1, "-5")
    player = Player(mixture, question, "endless")
    assert player.say("1").score is None
    with pytest.raises(TaskError, match="goes on with a conversation in which the model gets no further turn"):
        player.say("2", last=True)


def test_try_is_a_conversation(installed: Installed) -> None:
    (part,) = installed.shown["parts"]
    assert part["size"] == 20
    assert part["version"].startswith("guessing 0.1.0, verifiers 0.1.")
    tried = installed.json("tasks", "try", "env:guessing", "--answer", "x", "--answer", "y")
    roles = [message["role"] for message in tried["conversation"]]
    assert roles == ["system", "user", "assistant", "user", "assistant"]
    assert tried["score"]["correct"] is False
    assert [term["name"] for term in tried["score"]["terms"]] == ["right", "fast"]


def test_try_shows_the_replies_of_tools(mixture: Mixture, capsys: pytest.CaptureFixture[str]) -> None:
    config = TaskConfig(name="env:guessing", params={"kind": "add"})
    (question,) = asked(mixture, 1, "-3")
    play_given(OpenedTask(config, "guessing", mixture), question, [call(2, 14)], as_json=False)
    shown = capsys.readouterr().out
    assert "<tool_response>" in shown
    assert "reward 0.5; 0.5 points: right 0, called 0.5" in " ".join(shown.split())


def test_an_environment_of_the_older_library_with_one_turn(mixture: Mixture) -> None:
    (question,) = asked(mixture, 1, "-6")
    assert question.text.startswith("In a box.")
    assert question.turns == 0
    possible = [f"b{str(number)[::-1]}a" for number in range(12)]
    given = ["x", *possible]
    scores = mixture.score([question] * len(given), [f"<answer>{each}</answer>" for each in given])
    correct = [each for each, score in zip(given, scores, strict=True) if score.correct]
    assert correct == [question.entry["answer"]]


def test_a_node_trains_on_conversations_and_shows_them(installed: Installed, tmp_path: Path) -> None:
    model = save_llama(tmp_path / "model", TEMPLATE)
    kinds = {"env:guessing", "env:guessing-2"}  # the game, and the one with a tool
    write_profile(
        installed.home,
        "turns",
        f"{UNTRAINED.replace('questions = 4', f'questions = {HELD_OUT}')}\n"
        f'[model]\nname = "{model}"\ndevice = "cpu"\n[game]\ngroup_size = 2\n'
        "[generation]\nmax_completion_tokens = 60\nmax_prompt_tokens = 900\n"
        '[[tasks]]\nname = "env:guessing"\nmax_turns = 2\n'
        '[[tasks]]\nname = "env:guessing"\nmax_turns = 2\nparams = { kind = "add" }\n',
    )
    result = installed.json("run", "--profile", "turns", "--rounds", "1", "--no-input")
    assert (result["rounds"], result["steps"]) == (1, 1)
    rows = installed.json("rollouts", "show", "--node", "turns", "--last", "100")["rollouts"]
    assert {row["task"] for row in rows} == kinds
    for row in rows:
        assert row["turns"][0]["role"] == "assistant"
        assert sum(turn["role"] == "assistant" for turn in row["turns"]) <= 2
        assert row["outcome"] is not None
    shown = installed.run("rollouts", "show", "--node", "turns")
    assert "this node (" in shown.stdout
    refused = installed.run("run", "--profile", "turns", "--set", "judge.provider=openai", "--dry-run")
    assert refused.returncode == Exit.CONFIGURATION
    assert "judge.provider cannot be used with the task env:guessing" in refused.stderr


def test_a_template_that_loses_turns_is_refused_before_training(tmp_path: Path) -> None:
    events = Events()
    with pytest.raises(ModelError, match="the model's chat template changes what the model wrote"):
        GRPORunner(make_config(), NodeFiles(tmp_path), events, make_tasks=lambda *_: TwoTurnGame()).run()
    assert events.of("rollouts") == events.of("step") == []
