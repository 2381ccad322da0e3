"""Environments of ``verifiers``: installed on first use into a virtual environment of their own, then trained on.

The slow tests install the real verifiers from the package index, once for each supported version, with small packages
that this test writes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import Config, TaskConfig
from hivemind_exp.errors import NodeConflict, TaskError
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.tasks.base import Heard, ModelTurn, Talk
from hivemind_exp.tasks.environments import Installation
from hivemind_exp.tasks.mixture import Mixture
from swarmctl.errors import Exit
from swarmctl.nodes.inputs import check_inputs
from swarmctl.packages import environments as installing
from swarmctl.terminal.prompter import Cancelled, Prompter
from tests.support.command_line import UNTRAINED, write_profile
from tests.support.environments import REFUSED, Installed, module_of

TASKS = Config(tasks=["env:word-boxes", "gcd"]).tasks
AGAIN = "swarmctl run --task env:word-boxes --yes"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "swarmctl" / "environments"


def no_process(*_: Any, **__: Any) -> None:
    raise AssertionError("nothing may be started")


def test_nothing_is_installed_for_other_tasks_or_without_a_yes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", no_process)
    installing.install_environments(Config(tasks=["gcd"]).tasks, Prompter(silent=True), AGAIN)
    with pytest.raises(TaskError, match=r"word-boxes is not on this machine\..* agree with --yes") as raised:
        installing.install_environments(TASKS, Prompter(silent=True), AGAIN)
    assert raised.value.next == AGAIN
    prompter = Prompter()
    monkeypatch.setattr(prompter, "can_ask", True)
    monkeypatch.setattr("sys.stdin.readline", lambda: "n\n", raising=False)
    with pytest.raises(Cancelled, match="Nothing was installed"):
        installing.install_environments(TASKS, prompter, AGAIN)
    assert not cache.exists()


@pytest.mark.parametrize("has_uv", [True, False])
def test_a_failure_says_why_and_leaves_nothing_behind(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], has_uv: bool
) -> None:
    ran: list[Sequence[str]] = []

    def run(command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        ran.append(command)
        return subprocess.CompletedProcess(command, int("install" in command), b"no such package")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("shutil.which", lambda *_, **__: "/bin/uv" if has_uv else None)
    with pytest.raises(TaskError, match="cannot install environment word-boxes; the reason is above"):
        installing.install_environments(TASKS, Prompter(yes=True), AGAIN)
    assert list(cache.iterdir()) == []
    assert capfd.readouterr().err == "no such package\n"
    made, installed = ran
    assert list(made[:2]) == (["/bin/uv", "venv"] if has_uv else [sys.executable, "-m"])
    assert "word-boxes" in installed
    assert "--only-binary" in installed  # no package's code runs while it is installed


def test_one_whose_python_is_gone_is_installed_again(cache: Path) -> None:
    found = Installation.of("env:word-boxes")
    found.python.parent.mkdir(parents=True)
    found.directory.joinpath("swarmctl.json").write_text('{"versions": {"word-boxes": "0.1.0"}}')
    assert Installation.of("env:word-boxes").versions == {}
    found.python.symlink_to(sys.executable)
    assert Installation.of("env:word-boxes").origin == "word-boxes 0.1.0"
    found.python.unlink()
    found.python.symlink_to("/nowhere/python")
    with pytest.raises(TaskError, match="is not on this machine"):
        installing.install_environments(TASKS, Prompter(silent=True), AGAIN)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """Install verifiers 0.4 with the test's environment."""
    here = Installed(tmp_path_factory.mktemp("environments"))
    done = here.run("tasks", "show", "env:word-boxes", "--yes", "-n", "1", "--param", "count=30", "--json")
    assert done.returncode == Exit.DONE, done.stderr
    assert "Environment word-boxes 0.1.0, verifiers 0.4." in done.stderr
    here.shown = json.loads(done.stdout.splitlines()[-1])
    return here


@pytest.fixture(scope="module")
def mixture(installed: Installed) -> Iterator[Mixture]:
    """The environment with and without tools, in one set of workers, beside built-in tasks."""
    tasks = [
        TaskConfig(name="gcd"),
        TaskConfig(name="env:word-boxes"),
        TaskConfig(name="spell_backward"),
        TaskConfig(name="env:word-boxes", params={"tools": True}, max_turns=3),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", installed.variables["XDG_CACHE_HOME"])
        with closing(Mixture(tasks, charter=b"", secret=b"s", heldout=2, verifiers=1)) as opened:
            yield opened


@pytest.mark.slow
def test_tasks_knows_an_installed_environment(installed: Installed) -> None:
    (part,) = installed.shown["parts"]
    assert (part["size"], part["version"][:27]) == (30, "word-boxes 0.1.0, verifiers")
    (question,) = installed.shown["questions"]
    word = question["question"].removeprefix("In a box.\n\nReverse: ")
    assert question["reference"] == word[::-1]
    rows = installed.json("tasks", "list")["tasks"]
    assert [(row["kind"], row["description"]) for row in rows if row["name"] == "env:word-boxes"] == [
        ("environment", "Reverse words.")
    ]
    (package,) = Path(installed.variables["XDG_CACHE_HOME"]).rglob("word_boxes")
    assert list(package.rglob("*.pyc"))  # by the workers, for the next ones
    doctor = installed.run("doctor", "python.environments", "--set", "tasks=['env:word-boxes', 'env:other']")
    assert "word-boxes 0.1.0, verifiers 0.4." in doctor.stdout
    assert "other is not on this machine; the first run installs it" in doctor.stdout


@pytest.mark.slow
def test_answers_are_scored_in_the_sandbox_of_the_environments_own_python(mixture: Mixture) -> None:
    questions = [each for each in mixture.questions("train", 0, 16) if each.task != "env:word-boxes-2"]
    assert {each.task for each in questions} == {"gcd", "env:word-boxes", "spell_backward"}
    answers = [f"<answer>{each.entry['answer']}</answer>" for each in questions]
    assert all(score.correct for score in mixture.score(questions, answers))
    question = next(each for each in questions if each.task == "env:word-boxes")
    hostile = [f"<answer>{each}</answer>" for each in ("x", "connect", "read", "write", "environ", "spin")]
    given = [answers[questions.index(question)], *hostile, f"\\boxed{{{question.entry['answer']}}}"]
    right, wrong, *bad, boxed = mixture.score([question] * len(given), given)
    assert (right.reward, boxed.reward, wrong.reward) == (1.5, 1.5, 0.5)
    assert [(term.name, term.value) for term in right.terms] == [("right", 1.0), ("short", 0.5)]
    assert [score.outcome for score in bad] == [0.0] * 5
    reasons = ["PermissionError", "PermissionError", "PermissionError", "ValueError: []", "1.5 s of CPU time"]
    assert all(reason in score.why for reason, score in zip(reasons, bad, strict=True)), [each.why for each in bad]


LOADS = """
import json, sys; sys.path.insert(0, sys.argv[1])
from hivemind_exp.errors import NodeConflict, TaskError
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.tasks.base import ModelTurn, Talk
from hivemind_exp.tasks.families.conversations import HeldConversations
from hivemind_exp.tasks.families.environment_v1 import loaded

def why(name):
    try:
        module = loaded(name, name, {}, 4)
        question = module.questions(0)[0]
        module.score('7', question)
    except TaskError as error:
        return error.message

module = loaded('talking', 'talking', {}, 3)
question = module.questions(0)[3]

def play(name, texts, last=False):
    talks, turns = HeldConversations(module.begin_conversation), []
    for place, text in enumerate(texts, 1):
        talk = Talk(name, 1, (*turns, ModelTurn(text)), last and place == len(texts))
        reply = talks.reply(talk, question)
        turns.append(ModelTurn(text, reply.messages))
    again = HeldConversations(module.begin_conversation).reply(talk, question)
    return [dict(reply.verdict.terms), len(turns[0].heard), again == reply]

print(json.dumps({
    "refused": {need: why(name) for need, name in json.loads(sys.argv[2]).items()},
    "endless": len(loaded('endless', 'endless', {}, 4).questions(0)),
    "talking": [question['chat'], play('a', ['go', 'stop']), play('b', ['go'] * 3), play('c', ['go', 'cut'], True)],
}))
"""


@pytest.fixture(scope="module")
def loads(installed: Installed) -> dict[str, Any]:
    """Load further tasksets in one process of the environment's Python, and return what it found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", installed.variables["XDG_CACHE_HOME"])
        python = str(Installation.of("env:word-boxes").python)
        modules = json.dumps({need: module_of(need) for need in REFUSED})
        root = str(Path(__file__).parents[3])
        command = [python, "-P", "-c", LOADS, root, modules]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_what_an_environment_needs_is_named(loads: dict[str, Any]) -> None:
    assert loads["endless"] == 10_000
    found = loads["refused"]
    for need, (_, message) in REFUSED.items():
        assert found[need] is not None, need
        assert message in found[need]


@pytest.mark.slow
def test_the_tools_of_a_taskset_are_called_in_the_sandbox(mixture: Mixture) -> None:
    question = next(each for each in mixture.questions("train", 0, 16) if each.task == "env:word-boxes-2")
    assert (question.turns, [message["role"] for message in question.chat]) == (3, ["system", "user"])
    assert '"name": "clock_look"' in question.chat[0]["content"]

    def play(name: str, *texts: str) -> list[Heard]:
        turns: list[ModelTurn] = []
        heard = []
        for text in texts:
            turns.append(ModelTurn(text))
            heard += mixture.reply([question], [Talk(name, 1, tuple(turns))])
            turns[-1] = ModelTurn(text, heard[-1].messages)
        return heard

    look = '<tool_call>{"name": "clock_look", "arguments": {"place": "PLACE"}}</tool_call>'
    answer = f"\\boxed{{{question.text.removeprefix('Reverse: ')[::-1]}}}"
    first, second, last = play("a", look.replace("PLACE", "Rome"), look.replace("PLACE", "away"), answer)
    assert "1 o'clock in Rome" in first.messages[0]["content"]
    assert "not allowed in a worker" in second.messages[0]["content"]  # its code runs in the sandbox
    assert last.score is not None
    assert [(term.name, term.value) for term in last.score.terms] == [("right", 1.0), ("short", 0.5)]
    (again, *_) = play("b", look.replace("PLACE", "Rome"))
    assert again == first  # each conversation has a state of its own


@pytest.mark.slow
def test_an_environment_of_one_agent_talks_with_the_model(loads: dict[str, Any]) -> None:
    chat, ended, most, cut = loads["talking"]
    assert chat == [{"role": "user", "content": "3?"}]
    assert ended == [{"right": 1.0, "short": 0.5}, 1, True]
    assert most == [{"right": 1.0, "short": pytest.approx(1 / 3)}, 1, True]
    assert cut == [{"right": 1.0, "short": 0.5}, 1, True]


@pytest.mark.slow
def test_a_node_trains_on_it_and_notices_another_version(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    write_profile(installed.home, "boxes", f'{UNTRAINED}\n[[tasks]]\nname = "env:word-boxes"\n')
    result = installed.json("run", "--profile", "boxes", "--rounds", "1", "--no-input")
    assert (result["rounds"], result["steps"]) == (1, 1)
    kept = json.loads((installed.home / "nodes" / "boxes" / "inputs.json").read_text())["digests"]
    assert kept["package of task env:word-boxes"].startswith("word-boxes 0.1.0, verifiers 0.4.")
    files = NodeFiles(installed.home / "nodes" / "boxes")
    config = Config.model_validate(json.loads(files.config.read_text())["config"])
    monkeypatch.setenv("XDG_CACHE_HOME", installed.variables["XDG_CACHE_HOME"])
    check_inputs(files, config)
    (record,) = Path(installed.variables["XDG_CACHE_HOME"]).rglob("swarmctl.json")
    before = record.read_text()
    record.write_text(before.replace("0.1.0", "0.2.0"))
    try:
        with pytest.raises(NodeConflict, match=r"the package of task env:word-boxes .*has changed since node boxes"):
            check_inputs(files, config)
    finally:
        record.write_text(before)
