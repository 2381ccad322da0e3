"""Tasks in the operator's own code: what they can do, and how mistakes in them are reported."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from hivemind_exp.config import Config, TaskConfig
from hivemind_exp.errors import SwarmError, TaskError
from hivemind_exp.swarm.charter import MILLION
from hivemind_exp.swarm.charter_check import applied, pinned
from hivemind_exp.tasks.base import NO_ANSWER, RewardTerm, TaskSpec, Verdict
from hivemind_exp.tasks.families import own_code, packaged, python_file
from hivemind_exp.tasks.families.own_code import OwnCodeTask
from hivemind_exp.tasks.installed import distribution, installed_tasks
from hivemind_exp.tasks.mixture import Mixture, TaskFacts
from hivemind_exp.tasks.registry import check_tasks, expand
from tests.support.charters import charter, words

QUESTIONS = """
import random

def questions(seed, most=100):
    rng = random.Random(seed)
    while True:
        number = rng.randrange(most)
        yield {"question": f"What is {number} + 1?", "answer": number + 1}
"""
SCORE = """
def score(answer, question):
    return float(answer == str(question["answer"]))
"""
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str) -> Path:
        (tmp_path / "mine.py").write_text(text, encoding="utf-8")
        return tmp_path / "mine.py"

    return written


def task(file: Path, **params: object) -> OwnCodeTask:
    return python_file.build(TaskSpec("mine.py", python_file.__name__, "python-file", str(file), params=params))


def prepared(file: Path, **params: object) -> OwnCodeTask:
    made = task(file, **params)
    made.prepare("make")
    return made


def config(file: Path) -> TaskConfig:
    return Config(tasks=str(file)).tasks[0]


@pytest.mark.parametrize(
    ("code", "line", "message"),
    [
        ("def questions(seed:", 1, "cannot load the task: SyntaxError"),
        ("import nowhere", 1, "cannot load the task: ModuleNotFoundError"),
        ("1\n1 / 0", 2, "cannot load the task: ZeroDivisionError"),
        ("import sys\nsys.exit(1)", 2, "cannot load the task: SystemExit"),
        ("while True:\n    pass", None, "cannot load the task: it needs more than"),
        (SCORE, None, "defines no function questions(seed)"),
        (QUESTIONS, None, "defines no function score(answer, question)"),
        (f"{SCORE}questions = 7", None, "defines no function questions(seed)"),
        (f"{SCORE}questions = 'gone.jsonl'", None, "cannot read"),
        (f"def questions(): pass\n{SCORE}", 1, "cannot be called as questions(seed)"),
        (f"def questions(seed):\n    raise KeyError('x')\n{SCORE}", 2, "questions(seed) failed: KeyError"),
        (f"def questions(seed):\n    while True: pass\n{SCORE}", 2, "it needs more than"),
        (f"def questions(seed): pass\n{SCORE}", 1, "questions(0) gives no question"),
        (f"def questions(seed): return []\n{SCORE}", 1, "questions(0) gives no question"),
        (f"def questions(seed): return ['1 + 1?']\n{SCORE}", 1, "a question must be a dict"),
        (f"def questions(seed): return {{'question': 1}}\n{SCORE}", 1, "a question must be a dict"),
        (f"def questions(seed): return {{'question': 'a', 'x': {{1}}}}\n{SCORE}", 1, "not JSON data"),
        (f"def questions(seed): return {{'question': 'a', 'x': 2**70}}\n{SCORE}", 1, "not JSON data"),
        (f"def questions(seed): return {{'question': 'a \\ud83d'}}\n{SCORE}", 1, "not JSON data"),
        (f"def questions(seed): return {{'question': 'a'}}\n{SCORE}", 1, "gives the same 1 questions for every seed"),
        (f"def questions(seed):\n    while True: yield {{'question': 'a'}}\n{SCORE}", 1, "never ends"),
        (
            f"import random\ndef questions(seed): return {{'question': str(random.random())}}\n{SCORE}",
            2,
            "gives different questions for the same seed",
        ),
        (f"{QUESTIONS}def score(answer, question): return None", 9, "score returned None"),
        (f"{QUESTIONS}def score(answer, question): return 'good'", 9, "score returned"),
        (f"{QUESTIONS}def score(answer, question): return {{}}", 9, "score returned"),
        (f"{QUESTIONS}def score(answer, question): return float('nan')", 9, "score returned"),
        (f"{QUESTIONS}def score(answer): return 1", None, "score fails on the reference answer"),
        (f"{QUESTIONS}def score(answer, question):\n    return answer + 1", 10, "score fails on the reference answer"),
        (f"{QUESTIONS}def score(answer, question):\n    while True: pass", 10, "it needs more than"),
        (
            f"{QUESTIONS}def score(answer, question): return float(answer == question['answer'])",
            9,
            "score returns 0 instead of 1 for the reference answer",
        ),
    ],
)
def test_a_mistake_is_reported_with_its_line(
    write: Write, monkeypatch: pytest.MonkeyPatch, code: str, line: int | None, message: str
) -> None:
    for name in ("LOAD_SECONDS", "QUESTION_SECONDS", "SCORE_SECONDS"):
        monkeypatch.setattr(own_code, name, 0.2)
    monkeypatch.setattr(own_code, "MOST_QUESTIONS", 100)
    file = write(code)
    with pytest.raises(TaskError) as caught:
        prepared(file)
    assert message in caught.value.message
    assert caught.value.next is not None
    if line is not None:
        assert caught.value.message.startswith(f"{file}:{line}: ")
        assert caught.value.next.startswith("sed -n ")


def test_questions_follow_from_the_seed_and_the_params(write: Write) -> None:
    file = write(QUESTIONS + SCORE)
    made, small = prepared(file), prepared(file, most=10)
    assert made.size is None
    assert made.make(7) == made.make(7) != made.make(8)
    assert made.make(2**64 - 1)[0].startswith("What is")
    assert all(small.make(seed)[1]["answer"] <= 10 for seed in range(50))
    with pytest.raises(TaskError, match="with these params: got an unexpected keyword argument 'digits'"):
        prepared(file, digits=3)


@pytest.mark.parametrize(
    "questions",
    [
        "def questions(seed): return [{'question': f'{n}?', 'answer': n} for n in range(30)]",
        "def questions(seed):\n    for n in range(30): yield {'question': f'{n}?', 'answer': n}",
        "questions = 'data.jsonl'",
        "from pathlib import Path\nquestions = Path('data.jsonl')",
    ],
)
def test_questions_that_ignore_the_seed_are_a_fixed_set(write: Write, questions: str) -> None:
    file = write(f"{questions}\n{SCORE}")
    lines = [json.dumps({"question": f"{n}?", "answer": n}) for n in range(30)]
    file.with_name("data.jsonl").write_text("\n".join(lines), encoding="utf-8")
    made = prepared(file)
    assert (made.size, made.heldout_size) == (30, 0)
    assert made.sha256
    assert [made.make(place)[0] for place in range(30)] == [f"{n}?" for n in range(30)]


@pytest.mark.parametrize(
    ("returned", "verdict"),
    [
        ("1", Verdict(1.0)),
        ("True", Verdict(1.0)),
        ("0", Verdict(0.0)),
        ("0.5", Verdict(0.5, (("score", 0.5),))),
        ("3", Verdict(1.0, (("score", 3.0),))),
        ("-1", Verdict(0.0, (("score", -1.0),))),
        ("{'correct': 1, 'brief': 0.2}", Verdict(1.0, (("correct", 1.0), ("brief", 0.2)))),
        ("{'correct': 0, 'brief': 1}", Verdict(0.0, (("correct", 0.0), ("brief", 1.0)))),
        ("{'a': 0.5, 'b': 0.25}", Verdict(0.75, (("a", 0.5), ("b", 0.25)))),
    ],
)
def test_a_score_is_a_number_or_terms(write: Write, returned: str, verdict: Verdict) -> None:
    questions = "def questions(seed): return {'question': f'{seed}?'}"
    made = prepared(write(f"{questions}\ndef score(answer, question): return {returned}"))
    assert made.score("7", {"question": "7?"}) == verdict


@pytest.mark.parametrize(
    ("returned", "why"),
    [
        ("float('nan')", "score returned nan. It must return a number, or numbers by name"),
        ("10 ** 400", "It must return a number, or numbers by name"),
        ("{'correct': 1.0, 'x': 10 ** 400}", "It must return a number, or numbers by name"),
        ("1e308", "score returned 1e+308. A reward and its parts must be between -1,000,000 and 1,000,000"),
        ("{'a': 1e308, 'b': 1e308}", "must be between -1,000,000 and 1,000,000"),
        ("{str(n): 9e5 for n in range(2)}", "must be between -1,000,000 and 1,000,000"),
        ("{str(n): 0.1 for n in range(33)}", "At most 32 names are allowed, of at most 60 characters"),
        ("{'k' * 61: 1.0}", "score returned too many names, or too long ones"),
        ("[][0]", "score failed: IndexError"),
        ("(_ for _ in ()).throw(GeneratorExit)", "score failed: GeneratorExit"),
        ("(_ for _ in ()).throw(__import__('asyncio').CancelledError)", "score failed: CancelledError"),
    ],
)
def test_what_is_no_usable_reward_is_wrong_with_a_reason(write: Write, returned: str, why: str) -> None:
    questions = "def questions(seed): return {'question': f'{seed}?'}"
    verdict = prepared(write(f"{questions}\ndef score(answer, question): return {returned}")).score("7", {})
    assert (verdict.credit, verdict.terms) == (0.0, ())
    assert why in verdict.why


def test_an_answer_that_breaks_the_score_is_wrong_with_a_reason(write: Write) -> None:
    file = write(f"{QUESTIONS}\ndef score(answer, question):\n    return float(int(answer) == question['answer'])")
    verdict = prepared(file).score("many", {"answer": 2})
    assert (verdict.credit, verdict.terms) == (0.0, ())
    assert verdict.why.startswith("mine.py:11: score failed: ValueError: ")


def test_what_the_code_prints_is_kept_for_people(write: Write) -> None:
    assert prepared(write(f"print('loaded')\n{QUESTIONS}{SCORE}")).printed == "loaded\n"


SPY = """
import helper
import socket
from pathlib import Path

WORDS = Path(__file__).with_name("words.txt").read_text().split()
print("not a message")

def tried(action):
    try:
        action()
    except OSError:
        return 0.0
    return 1.0

def questions(seed):
    print("not a message either")
    return {"question": f"{WORDS[seed % 3]} {seed}?", "spied": [tried(each) for each in helper.spies]}

def score(answer, question):
    print("nor this")
    if answer == "slow":
        while True:
            pass
    return {"correct": float(answer == "right"), **{f"spy {n}": tried(each) for n, each in enumerate(helper.spies)}}
"""
HELPER = """
import os
import socket
from pathlib import Path

spies = [
    lambda: Path(__file__).with_name("words.txt").read_text(),
    lambda: Path("/etc/passwd").read_text(),
    lambda: Path(__file__).with_name("new").write_text("x"),
    lambda: socket.socket(),
    lambda: os.system("true"),
]
"""


@pytest.mark.slow
def test_a_file_runs_in_the_sandbox_and_reads_only_its_own_directory(write: Write, tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text(HELPER, encoding="utf-8")
    (tmp_path / "words.txt").write_text("one two three", encoding="utf-8")
    tasks = [config(write(SPY))]
    check_tasks(tasks)
    with closing(Mixture(tasks, charter=b"", secret=b"s", heldout=2, verifiers=1)) as mixture:
        (question, *_) = mixture.questions("train", 0, 3)
        right, slow, none = mixture.score(
            [question] * 3, ["<answer>right</answer>", "<answer>slow</answer>", "<think>right"]
        )
    spies = [1.0, 0.0, 0.0, 0.0, 0.0]
    assert question.task == "mine.py"
    assert question.entry["spied"] == spies
    assert right.correct
    assert right.reward == 2.0
    names = ["correct", *(f"spy {n}" for n in range(5))]
    assert right.terms == tuple(RewardTerm(*pair, None, "") for pair in zip(names, [1.0, *spies], strict=True))
    assert (slow.reward, slow.judged) == (0.0, True)
    assert re.fullmatch(r"mine\.py:2[234]: score failed: it needs more than 1.5 s of CPU time", slow.why)
    assert (none.reward, none.why) == (0.0, NO_ANSWER)
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_a_mistake_is_found_before_a_run(write: Write) -> None:
    with pytest.raises(TaskError, match=r"mine\.py:2: cannot load the task: ZeroDivisionError"):
        check_tasks([config(write("\n1 / 0"))])
    with pytest.raises(TaskError, match="is not a file"):
        check_tasks([config(Path("/nowhere/mine.py"))])
    with pytest.raises(TaskError, match="needs a path to a Python file"):
        check_tasks([TaskConfig(name="python-file")])


def test_a_file_in_the_home_directory_opens_nothing_else(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(QUESTIONS + SCORE)
    path: list[str] = []
    monkeypatch.setattr("sys.path", path)
    monkeypatch.setenv("HOME", str(file.parent / "me"))
    task(file)
    assert path == []
    monkeypatch.setenv("HOME", "/elsewhere")
    task(file)
    assert path == [str(file.parent)]


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Install a package with a task, for this process and its workers."""
    (tmp_path / "rhyming.py").write_text(QUESTIONS + SCORE, encoding="utf-8")
    about = tmp_path / "rhyming-1.2.dist-info"
    about.mkdir()
    about.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: rhyming\nVersion: 1.2\nSummary: Rhymes.\n")
    about.joinpath("entry_points.txt").write_text("[swarmctl.tasks]\nrhymes = rhyming\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    installed_tasks.cache_clear()
    yield "rhymes"
    installed_tasks.cache_clear()


@pytest.mark.slow
def test_a_package_s_task_has_a_name_of_its_own(package: str) -> None:
    tasks = [TaskConfig(name=package, params={"most": 50})]
    ((spec, _),) = expand(tasks)
    assert spec.module == packaged.__name__
    check_tasks(tasks)
    with closing(Mixture(tasks, charter=b"", secret=b"s", heldout=2, verifiers=1)) as mixture:
        (question,) = mixture.questions("train", 0, 1)
        (score,) = mixture.score([question], [f"<answer>{question.entry['answer']}</answer>"])
        assert mixture.facts() == [TaskFacts("rhymes", None, None, "rhyming 1.2")]
    assert score.correct
    with pytest.raises(TaskError, match="accepts params, but no path"):
        check_tasks([TaskConfig(name=package, path="x")])
    with pytest.raises(TaskError, match="did you mean rhymes"):
        expand([TaskConfig(name="rhyme")])


def test_an_entry_point_without_a_package_has_no_version() -> None:
    assert distribution(EntryPoint("a", "b", "c")) == ""


def test_no_charter_can_name_own_code(write: Write, package: str) -> None:
    for mine in (config(write(QUESTIONS + SCORE)), TaskConfig(name=package)):
        with pytest.raises(TaskError, match="every node would have to run its code"):
            pinned([mine], [], {})
    for name in ("python-file", package):
        with pytest.raises(SwarmError, match="names a task in your own Python code"):
            applied(charter(tasks=(words(label=name, name=name, params={}, weight_ppm=MILLION),)), Config())


def test_the_garbage_collector_pauses_while_workers_load_code(write: Write) -> None:
    code = "import gc\nLOADING = gc.isenabled()\n\ndef questions(seed):\n"
    code += '    yield {"question": f"{seed} {LOADING}", "answer": str(gc.isenabled())}\n'
    with closing(Mixture([config(write(code + SCORE))], charter=b"", secret=b"s", heldout=2, verifiers=1)) as mixture:
        (question,) = mixture.questions("train", 0, 1)
    assert (question.text.split()[1], question.entry["answer"]) == ("False", "True")
