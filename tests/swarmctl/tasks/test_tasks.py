"""``swarmctl tasks``."""

from __future__ import annotations

import io
import json
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.tasks.descriptions import DESCRIPTIONS
from hivemind_exp.tasks.registry import FAMILIES, names
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.tasks import list as listing
from swarmctl.terminal import prompter

MINE = '''"""Successors.

More."""
print("loaded")

def questions(seed, most=9):
    return {"question": f"What comes after {seed % most}?", "answer": seed % most + 1}

def score(answer, question):
    return {"correct": float(answer == str(question["answer"])), "short": 0.1 * (len(answer) < 3)}
'''
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE, encoding="utf-8")
    return "mine.py"


def printed(capsys: Capture, *arguments: str) -> dict[str, Any]:
    assert cli.run(["tasks", *arguments, "--json"]) == Exit.DONE
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found.pop("schema") == 1
    return found


def test_every_task_has_a_short_description() -> None:
    assert DESCRIPTIONS.keys() == set(names())
    assert list(DESCRIPTIONS) == sorted(DESCRIPTIONS)
    assert {name: text for name, text in DESCRIPTIONS.items() if not text or len(text) > 70} == {}


def test_a_new_family_generates_its_questions_unless_they_are_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "rivers", "hivemind_exp.tasks.families.rivers")
    kinds = {task.name: task.kind for task in listing.listed_tasks()}
    assert kinds["rivers"] == kinds["gcd"] == "generator"
    assert kinds["jsonl"] == "questions"


def test_all_tasks_are_listed(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("rhymes", "rhyming", "swarmctl.tasks")
    monkeypatch.setattr(listing, "installed_tasks", lambda: {"rhymes": entry, "gsm8k": entry})
    monkeypatch.setattr(listing, "distribution", lambda _: "rhyming 1.2")
    monkeypatch.setattr(listing, "summary", lambda _: "Find\x1b[31m rhymes")
    tasks = {task["name"]: task for task in printed(capsys, "list")["tasks"]}
    assert tasks.keys() == {*names(), "rhymes"}
    assert tasks["sapo"] == {"name": "sapo", "kind": "preset", "description": DESCRIPTIONS["sapo"], "package": None}
    assert [tasks[name]["kind"] for name in ("gcd", "gsm8k", "python-file")] == ["generator", "questions", "questions"]
    assert tasks["rhymes"]["kind"] == "package"
    assert tasks["rhymes"]["package"] == "rhyming 1.2"
    assert tasks["rhymes"]["description"] == "Find\\x1b[31m rhymes"
    assert cli.run(["tasks", "list"]) == Exit.DONE
    assert "basic_arithmetic         Calculate with" in capsys.readouterr().out


@pytest.mark.slow
def test_a_task_is_shown_with_its_parameters_and_questions(capsys: Capture) -> None:
    arguments = ("show", "spell_backward", "--param", "max_word_len=3", "--param", "min_word_len=3")
    found = printed(capsys, *arguments, "-n", "3")
    assert list(found) == ["task", "description", "params", "parts", "questions"]
    assert (found["task"], found["description"]) == ("spell_backward", "Spell a word backward")
    assert (found["params"]["max_word_len"], found["params"]["min_word_len"]) == ("3", "3")
    assert found["parts"][0]["version"].startswith("reasoning-gym ")
    assert [list(each) for each in found["questions"]] == [["task", "question", "reference"]] * 3
    assert {len(each["reference"]) for each in found["questions"]} == {3}
    assert printed(capsys, *arguments, "-n", "3") == found
    assert printed(capsys, *arguments, "-n", "3", "--seed", "1") != found


@pytest.mark.slow
def test_a_file_of_ones_own_is_shown(capsys: Capture, mine: str) -> None:
    assert cli.run(["tasks", "show", mine, "--param", "most=5", "-n", "1"]) == Exit.DONE
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[:4] == ["mine.py: Successors.", "  parameters: most=5", "", "[0]"]
    assert lines[4].startswith("    | What comes after ")
    assert lines[5].startswith("  reference: ")
    assert lines[-4] == "To answer them yourself:"
    assert lines[-3].endswith("tasks try mine.py --param=most=5")
    assert lines[-1].endswith("""run --set 'tasks=[{name = "python-file", path = "mine.py", params = {"most" = 5}}]'""")
    assert err == "mine.py printed: loaded\n"


@pytest.mark.slow
def test_fields_of_a_question_file_that_are_not_used_are_named(capsys: Capture, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text("".join(f'{{"question": "{n}?", "answer": "{n}", "id": {n}}}\n' for n in range(12)))
    line = f"{file}: only the fields question and answer are used, not id.\n"
    assert cli.run(["tasks", "show", str(file), "-n", "1"]) == Exit.DONE
    assert capsys.readouterr().err == line


@pytest.mark.slow
def test_answers_are_scored(capsys: Capture, mine: str) -> None:
    (question,) = printed(capsys, "show", mine, "-n", "1")["questions"]
    found = printed(capsys, "try", mine, "--answer", question["reference"], "--answer", "many")
    assert list(found) == ["task", "question", "reference", "answers"]
    assert (found["question"], found["reference"]) == (question["question"], question["reference"])
    right, wrong = found["answers"]
    assert list(right) == ["answer", "correct", "outcome", "reward", "terms", "why"]
    assert (right["correct"], right["outcome"], right["reward"]) == (True, 1.0, 1.1)
    assert right["terms"][1] == {"name": "short", "value": 0.1, "maximum": None, "why": ""}
    assert (wrong["correct"], wrong["reward"], wrong["why"]) == (False, 0.0, "wrong")
    assert cli.run(["tasks", "try", mine, "--answer", "many\x1b[2J"]) == Exit.DONE
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "    wrong (outcome 0), reward 0; 0 points: correct 0, short 0"
    assert "\x1b" not in out


@pytest.mark.slow
@pytest.mark.parametrize("end", ["\n", ""])
def test_questions_are_asked_until_the_answer_is_empty_or_the_input_ends(
    end: str, capsys: Capture, mine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Person(prompter.Prompter):
        def __init__(self, **options: bool) -> None:
            super().__init__(**options)
            self.can_ask = True

    monkeypatch.setattr(prompter, "Prompter", Person)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"none\nmany\n{end}"))
    assert cli.run(["tasks", "try", mine]) == Exit.DONE
    out, err = capsys.readouterr()
    assert out.count("What comes after") == 3
    assert err.endswith("Your answer (Enter to stop): " + "\n" * (end == ""))  # Enter has ended the line
    assert "reference" not in out
    assert err.count("wrong (outcome 0), reward 0; 0 points: correct 0, short 0; the reference is ") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "gdc"], "unknown task 'gdc'; did you mean gcd"),
        (["show", "gcd", "--param", "most"], "invalid --param 'most'. Use NAME=VALUE"),
        (["show", "gcd", "--param", "most=3"], "task 'gcd' has no parameter most"),
        (["show", "gcd,lcm"], "name one task"),
        (["show", ""], "name one task"),
        (["show", "gcb"], "tasks show gcd"),
        (["show", "gcd", "--param", "most=3"], "tasks show gcd"),
        (["show", "missing.py"], "missing.py: it is not a file"),
        (["show", "countdown"], "task 'countdown' cannot be used"),
        (["try", "gcd"], "cannot prompt for an answer here. Use --answer TEXT"),
        (["try", "gcd", "--json"], "cannot prompt for an answer here. Use --answer TEXT"),
    ],
)
def test_a_mistake_is_one_message(capsys: Capture, arguments: list[str], message: str) -> None:
    assert cli.run(["tasks", *arguments]) in (Exit.USAGE, Exit.CONFIGURATION)
    out, err = capsys.readouterr()
    assert message in out + err
    assert "Traceback" not in err


@pytest.mark.slow
def test_partial_credit_is_named(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("half.py").write_text(
        "def questions(seed): return {'question': str(seed)}\ndef score(answer, question): return float(answer)\n"
    )
    assert cli.run(["tasks", "try", "half.py", "--answer", "0.5"]) == Exit.DONE
    last = capsys.readouterr().out.splitlines()[-1]
    assert "partly correct (outcome 0.5; it counts only with game.partial_credit = true), reward 0.5" in last
