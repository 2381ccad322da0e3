"""Question files in common formats."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import Table, parquet

from hivemind_exp.config import Config, TaskConfig
from hivemind_exp.errors import TaskError
from hivemind_exp.tasks.base import TaskSpec
from hivemind_exp.tasks.families.fixed_set import FixedQuestion
from hivemind_exp.tasks.families.jsonl import build
from hivemind_exp.tasks.families.question_files import read_questions
from hivemind_exp.tasks.registry import check_tasks


def turns(*texts: str) -> list[dict[str, str]]:
    roles = ("system", "user", "assistant")[-len(texts) :]
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]


@pytest.mark.parametrize(
    ("record", "question", "answer"),
    [
        ({"question": "q", "answer": "She buys <<1+1=2>>2.\n#### 2"}, "q", "2"),
        ({"question": "q", "answer": "#### 1,234\n"}, "q", "1,234"),
        ({"question": "q", "answer": "#### not the last line\nParis"}, "q", "#### not the last line\nParis"),
        ({"question": "q", "answer": "so $\\boxed{1}$, or $\\boxed{\\frac{1}{2}}$."}, "q", "\\frac{1}{2}"),
        ({"question": "q", "answer": "\\boxed{unclosed"}, "q", "\\boxed{unclosed"),
        ({"question": "q", "answer": 22.0}, "q", "22"),
        ({"question": "q", "answer": 0.5}, "q", "0.5"),
        ({"question": "q", "answer": -3}, "q", "-3"),
        ({"question": "q", "answer": ["42"]}, "q", "42"),
        ({"question": "q", "answer": "1 million"}, "q", "1 million"),
        ({"problem": "q", "solution": "... \\boxed{1}", "answer": "2"}, "q", "2"),
        ({"Problem": "q", "level": 5, "solution": "... \\boxed{1}"}, "q", "1"),
        ({"prompt": "q", "completion": "a"}, "q", "a"),
        ({"prompt": turns("q", "x")[:1], "completion": turns("q", "a")[1:]}, "q", "a"),
        ({"instruction": "Add.", "input": "1 2", "output": "3"}, "Add.\n\n1 2", "3"),
        ({"instruction": "Add 1 2.", "input": "", "output": "3"}, "Add 1 2.", "3"),
        ({"messages": turns("q", "so\n#### 7")}, "q", "7"),
        ({"messages": turns("Be brief.", "q", "7")}, "Be brief.\n\nq", "7"),
    ],
)
def test_common_fields_and_answers_are_read(record: dict[str, Any], question: str, answer: str, tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps(record) + "\n")
    assert read_questions(file) == [FixedQuestion(question, answer)]


ROWS = [{"question": f"{n} + 1?", "answer": f"so\n#### {n + 1}"} for n in range(12)]
WANTED = [FixedQuestion(f"{n} + 1?", str(n + 1)) for n in range(12)]


def write(file: Path) -> Path:
    """Write ``ROWS`` in the format that the file's ending names."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix.lower() == ".parquet":
        parquet.write_table(Table.from_pylist(ROWS), file)
    elif file.suffix.lower() == ".json":
        file.write_text(json.dumps(ROWS, indent=1))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


@pytest.mark.parametrize("name", ["a.jsonl", "A.JSONL", "a.ndjson", "a.json", "a.parquet", "own, questions.jsonl"])
def test_all_formats_give_the_same_questions_and_hash(name: str, tmp_path: Path) -> None:
    file = write(tmp_path / name)
    config = Config(tasks=[str(file)])
    assert config.tasks == [TaskConfig(name="jsonl", path=str(file))]
    check_tasks(config.tasks)
    assert read_questions(file) == WANTED
    task = build(TaskSpec("jsonl", "", "jsonl", path=str(file)))
    task.prepare("make")
    assert task.sha256 == "70d06a7f5cfb51f05fc486bc8f31be6c9f027362dccec15d42bd0bd8bb5d44d5"


@pytest.mark.parametrize("text", [json.dumps({"data": ROWS, "version": 1}), "\n".join(map(json.dumps, ROWS))])
def test_a_json_file_may_nest_its_rows_or_hold_json_lines(text: str, tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    file.write_text(text)
    assert read_questions(file) == WANTED


@pytest.mark.parametrize(
    ("train", "heldout", "sizes"),
    [
        ("train.jsonl", "heldout.jsonl", (12, 12)),
        ("data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet", (12, 12)),
        ("questions.parquet", "validation.parquet", (12, 12)),
        ("questions.json", None, (12, 0)),
    ],
)
def test_a_directory(train: str, heldout: str | None, sizes: tuple[int, int], tmp_path: Path) -> None:
    for name in filter(None, (train, heldout)):
        write(tmp_path / "set" / name)
    if not train.endswith(".json"):
        (tmp_path / "set" / "dataset_info.json").write_text("{}")
    task = build(TaskSpec("jsonl", "", "jsonl", path=str(tmp_path / "set")))
    task.prepare("make")
    assert (task.size, task.heldout_size) == sizes


FEW = "only the fields question and answer are used, not"
ONE = ". A question has one correct answer; those in the other fields don't count"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, None),
        ({"id": 5, "Level": "hard"}, f"{FEW} id, Level."),
        ({"answers": ["1", "one"]}, f"{FEW} answers{ONE}."),
        ({"solution": "1"}, f"{FEW} solution{ONE}."),
        ({"a\nb": 1}, f'{FEW} "a b".'),
        ({f"f{n}": 1 for n in range(13)}, f"{FEW} {', '.join(f'f{n}' for n in range(10))} and 3 more."),
        ({"messages": "text"}, f"{FEW} messages."),
    ],
)
@pytest.mark.parametrize("name", ["own.jsonl", "own.json", "own.parquet"])
def test_fields_that_are_not_used_are_named_once_per_file(
    tmp_path: Path, name: str, more: dict[str, Any], told: str | None
) -> None:
    rows = [*ROWS[:5], *({**row, **more} for row in ROWS[5:])]
    file = tmp_path / name
    if name.endswith("parquet"):
        parquet.write_table(Table.from_pylist([*rows[5:], *rows[:5]]), file)
    else:
        file.write_text(json.dumps(rows) if name.endswith("json") else "\n".join(map(json.dumps, rows)))
    lines: list[str] = []
    check_tasks(Config(tasks=[str(file)]).tasks, lines.append)
    assert lines == ([] if told is None else [f"{file}: {told}"])


def test_each_file_of_a_directory_has_its_own_line(tmp_path: Path) -> None:
    for name in ("train-1", "train-2", "test"):
        rows = [{**row, "id": 1} if name != "train-1" else row for row in ROWS]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    lines: list[str] = []
    check_tasks(Config(tasks=[f"{tmp_path}/"]).tasks, lines.append)
    assert lines == [f"{tmp_path}/{name}.jsonl: {FEW} id." for name in ("train-2", "test")]


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Add 1 2.", "input": "", "output": "3"},
        {"input": "1 + 2?", "Answer": "3"},
        {"messages": turns("q", "a")},
    ],
)
def test_fields_of_the_usual_formats_are_all_used(tmp_path: Path, record: dict[str, Any]) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text(f"{json.dumps(record)}\n" * 12)
    lines: list[str] = []
    check_tasks(Config(tasks=[str(file)]).tasks, lines.append)
    assert lines == []


def test_several_answers_in_one_field_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    file.write_text('{"question": "q", "answer": ["a", "b"]}\n')
    with pytest.raises(
        TaskError, match=r"own\.jsonl:1: the line has 2 answers in 'answer'; a question can have only one"
    ):
        read_questions(file)


def test_a_directory_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"no \.jsonl, \.json or \.parquet files to train on") as caught:
        check_tasks(Config(tasks=[f"{tmp_path}/"]).tasks)
    assert caught.value.next == f"ls -l {tmp_path}"


@pytest.mark.parametrize("name", ["own.parquet", "own.json"])
def test_a_damaged_file_is_refused_with_its_row(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(b"PAR1 no")
    with pytest.raises(TaskError, match=r"own\.(parquet|json)") as caught:
        read_questions(file)
    assert caught.value.next == f"ls -l {tmp_path}" if name.endswith("parquet") else f"ls -l {file}"


def test_a_file_name_given_as_a_task_is_answered_with_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("questions").mkdir()
    with pytest.raises(TaskError, match=r"write \./questions") as caught:
        check_tasks(Config(tasks=["questions"]).tasks)
    assert caught.value.next == "swarmctl run --task ./questions"


def test_both_encodings_of_an_accent_are_equal() -> None:
    task = build(TaskSpec("jsonl", "", "jsonl"))
    assert task.score("cafe\u0301", {"answer": "caf\u00e9"}) == 1.0
    assert task.score("cafe", {"answer": "caf\u00e9"}) == 0.0


NAMES = st.sampled_from(["question", "answer", "messages", "role", "content", "prompt"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(), lambda each: st.lists(each) | st.dictionaries(NAMES, each)
)


@pytest.mark.slow
@settings(deadline=None)
@given(VALUES)
def test_any_json_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    file = tmp_path_factory.getbasetemp() / "any.jsonl"
    file.write_text(json.dumps(value), encoding="utf-8")
    with contextlib.suppress(TaskError):
        assert all(row.question.strip() and row.answer for row in read_questions(file))
